"""One frozen CLIP, whatever its towers: images and texts in, embeddings out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from maft.clip import dense, text, vit
from maft.clip.tokenizers import token_rows
from maft.errors import UserError
from maft.structures import Images


class CLIPEncoder(nn.Module):
    """A CLIP model of open_clip with what mask classification needs of it.

    Parameters are frozen on construction and the module stays in eval mode while nothing in it is trainable, so
    that stochastic depth and batch statistics of a frozen tower cannot leak into training.

    Args:
        model: an ``open_clip`` CLIP or CustomTextCLIP.
        tokenizer: see `maft.clip.tokenizers.token_rows`.
        name: how messages call it.
        mean, std: pixel normalisation in 0..1.

    Attributes:
        kind: "vit", "convnext" or "resnet".
        pixel_mean, pixel_std: (3,) float buffers on the 0..255 scale, not in checkpoints.
        embed_dim: D, width of the joint space.
        text_width: width of the text transformer.
        image_size: native input size (height, width).
        stride: pixels per token, a ViT's patch size, or per cell of the last feature map.

    Raises:
        UserError: a tower is of a kind that is not supported.
    """

    model: Any
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str = "CLIP",
        mean: Sequence[float] = OPENAI_DATASET_MEAN,
        std: Sequence[float] = OPENAI_DATASET_STD,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.kind = _kind(model.visual, name)
        self.text_width, self.embed_dim = text.text_width(model), text.joint_width(model)
        size = model.visual.image_size
        self.image_size = (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.stride = int(model.visual.patch_size[0]) if self.kind == "vit" else 32
        self.register_buffer("pixel_mean", 255 * torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("pixel_std", 255 * torch.tensor(std, dtype=torch.float32), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> CLIPEncoder:
        """Follows ``mode`` only when a parameter is trainable; a frozen CLIP stays in eval mode."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        return self.model.visual

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids (n, context length) int64 on the CPU, padded as the tower was trained.

        Raises:
            UserError: a text is longer than the tower's context, as nothing is truncated silently; or the tokenizer
                is missing or another tower's.
        """
        rows = token_rows(self.tokenizer, texts)
        text.check_rows(self.model, rows)
        return rows

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Text embeddings (n, D), not normalised, of token ids (n, context length)."""
        return self.model.encode_text(tokens)

    def normalize(self, images: Images) -> Tensor:
        """(B, 3, H, W) pixels as the image tower takes them; padding is zero after the normalisation."""
        return images.normalized(self.pixel_mean, self.pixel_std)

    @property
    def temperature(self) -> Tensor:
        """The tower's own factor of the cosine; CLIP was trained with at most 100, SigLIP without a limit."""
        scale = self.model.logit_scale.exp()
        return scale.clamp(max=100) if self.model.logit_bias is None else scale

    @property
    def logit_bias(self) -> float:
        """What a tower that was trained with a sigmoid (SigLIP) adds to its logits; 0 for all others."""
        return 0.0 if self.model.logit_bias is None else float(self.model.logit_bias)

    def encode_image(self, pixels: Tensor, *, visual: nn.Module | None = None, align_corners: bool = False) -> Tensor:
        """Image embeddings (B, D), not normalised.

        Args:
            pixels: (B, 3, h, w) normalised with ``pixel_mean`` and ``pixel_std``, of any size.
            visual: a tuned copy of the image tower that is run in its place.
            align_corners: how a ViT's position embedding is resized to another grid.
        """
        tower: Any = self.visual if visual is None else visual
        if self.kind == "vit":
            return vit.encode_vit(tower, pixels, align_corners=align_corners)
        if self.kind == "resnet":
            return dense.attention_pool(tower, dense.dense_features(tower, pixels)["dense"])
        return tower(pixels)

    def dense_features(self, images: Images) -> dict[str, Tensor]:
        """Feature maps of a convolutional tower, see :func:`maft.clip.dense.dense_features`."""
        return dense.dense_features(self.visual, self.normalize(images))

    def text_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters of the text tower, in a fixed order."""
        return [(n, p) for n, p in self.model.named_parameters() if not n.startswith(("visual.", "logit_"))]

    def text_version(self) -> tuple[Any, ...]:
        """Changes whenever a text weight is replaced, moved or written in place; costs no look at the values."""
        # Inference tensors keep no version counter, and cannot be written in place outside inference mode either.
        return (
            id(self),
            *((p.data_ptr(), p.dtype, 0 if p.is_inference() else p._version) for _, p in self.text_parameters()),
        )

    def text_digest(self) -> str:
        """SHA-256 of the tokenizer's kind and the text tower's weights: what embeddings are kept under."""
        digest = hashlib.sha256(f"{type(self.tokenizer).__name__} {self.tokenizer.context_length} ".encode())
        for name, parameter in self.text_parameters():
            digest.update(f"{name} {tuple(parameter.shape)} ".encode())
            digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _kind(visual: nn.Module, name: str) -> str:
    if isinstance(visual, VisionTransformer):
        return "vit"
    if dense.is_convnext(visual):
        return "convnext"
    if isinstance(visual, ModifiedResNet):
        return "resnet"
    raise UserError(
        f"The image tower of {name} ({type(visual).__name__}) is not supported: "
        "choose a ViT, ConvNeXt or ResNet CLIP of open_clip."
    )
