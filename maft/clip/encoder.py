"""One frozen CLIP, whatever its towers: images and texts in, embeddings out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.modified_resnet import ModifiedResNet
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from maft.clip import dense, vit
from maft.errors import UserError
from maft.structures import Images

# Words whose pieces the tokenizer keeps.
_MOST_WORDS = 100_000


class CLIPEncoder(nn.Module):
    """A CLIP model of open_clip with what mask classification needs of it.

    Parameters are frozen on construction and the module stays in eval mode while nothing in it is trainable, so
    that stochastic depth and batch statistics of a frozen tower cannot leak into training.

    Args:
        model: an ``open_clip`` CLIP or CustomTextCLIP.
        tokenizer: has ``encode(text) -> list[int]``, ``sot_token_id``, ``eot_token_id`` and ``context_length``.
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
        text = getattr(model, "text", model)
        if not hasattr(text, "ln_final") or getattr(text, "text_projection", None) is None:
            raise UserError(f"The text tower of {name} is not a CLIP text transformer: choose another MODEL.CLIP.NAME.")
        self.text_width = int(text.ln_final.weight.shape[0])
        projection = text.text_projection
        self.embed_dim = int(projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1])
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
        """Token ids (n, context length) int64 on the CPU, zero-padded.

        Raises:
            UserError: a text is longer than CLIP's context; nothing is truncated silently.
        """
        length = self.tokenizer.context_length
        tokens = torch.zeros(len(texts), length, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            ids = [self.tokenizer.sot_token_id, *self.tokenizer.encode(text), self.tokenizer.eot_token_id]
            if len(ids) > length:
                shown = text if len(text) <= 60 else text[:57] + "..."
                raise UserError(
                    f"The text {shown!r} has {len(ids)} tokens and CLIP reads {length}: shorten the class name."
                )
            row[: len(ids)] = torch.tensor(ids)
        return tokens

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Text embeddings (n, D), not normalised, of token ids (n, context length)."""
        return self.model.encode_text(tokens)

    def normalize(self, images: Images) -> Tensor:
        """(B, 3, H, W) pixels as the image tower takes them; padding is zero after the normalisation."""
        return images.normalized(self.pixel_mean, self.pixel_std)

    @property
    def temperature(self) -> Tensor:
        """CLIP's own factor of the cosine, at most 100."""
        return self.model.logit_scale.exp().clamp(max=100)

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
        """SHA-256 of the text tower's weights: the identity under which embeddings may outlive the process."""
        digest = hashlib.sha256()
        for name, parameter in self.text_parameters():
            digest.update(f"{name} {tuple(parameter.shape)} ".encode())
            digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class BytePairTokenizer(SimpleTokenizer):
    """CLIP's tokenizer with the special tokens spelt as OpenAI does, ``<|startoftext|>`` and ``<|endoftext|>``."""

    sot_token_id: int
    eot_token_id: int

    def __init__(self, context_length: int = 77) -> None:
        super().__init__(context_length=context_length)
        import regex

        spelt = {"<|startoftext|>": self.sot_token_id, "<|endoftext|>": self.eot_token_id}
        self.encoder.update(spelt)
        self.cache = {token: token for token in spelt}
        words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
        self._special = dict(self.cache)
        self.pat = regex.compile("|".join([*map(regex.escape, spelt), words]), regex.IGNORECASE)

    def bpe(self, token: str) -> str:
        """The pieces of a word, kept for its next occurrence; of very many words none is kept for ever."""
        if len(self.cache) > _MOST_WORDS:
            self.cache = dict(self._special)
        return super().bpe(token)


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
