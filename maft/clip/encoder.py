"""One frozen CLIP, whatever its towers: images and texts in, embeddings out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

from maft.clip import text
from maft.clip.tokenizers import token_rows, unknown_words
from maft.clip.towers import image_tower
from maft.clip.towers.base import described_size
from maft.structures import Images

log = logging.getLogger(__name__)


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
        tower: the pieces of the image tower, see `maft.clip.towers.base.ImageTower`.
        pixel_mean, pixel_std: (3,) float buffers on the 0..255 scale, not in checkpoints.
        embed_dim: D, width of the joint space.
        text_width: width of the text transformer.
        image_size: native input size (height, width).

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
        self.tower = image_tower(model.visual, name)
        self.image_size = self.tower.image_size
        if (described := described_size(model.visual)) != self.image_size:
            log.warning("CLIP %s is described for images of %s, but made for %s.", name, described, self.image_size)
        self.text_width, self.embed_dim = text.text_width(model), text.joint_width(model)
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

    def unknown_words(self, texts: Sequence[str]) -> tuple[str, ...]:
        """The words of some texts that the tower has never seen, see `maft.clip.tokenizers.unknown_words`."""
        return unknown_words(self.tokenizer, texts)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Text embeddings (n, D), not normalised, of token ids (n, context length) on any device.

        Equal rows are encoded once, and a causal tower is shown no padding behind the longest of like rows.
        """
        return text.encode(self.model, tokens, self.device)

    def encode_text_by_definition(self, tokens: Tensor) -> Tensor:
        """`encode_text` as the towers are written: every row by its whole context."""
        return self.model.encode_text(tokens.to(self.device))

    def require_causal_text(self, purpose: str) -> None:
        """Raises `UserError` where `encode_embedded_text` is not defined; ``purpose`` begins the sentence."""
        text.require_causal(self.model, self.name, purpose)

    @property
    def token_embedding(self) -> nn.Embedding:
        """The table (vocabulary, W) that token ids are looked up in."""
        return text.text_tower(self.model).token_embedding

    def text_ends(self, tokens: Tensor) -> Tensor:
        """Position (n,) of the end token in token ids (n, context length)."""
        return text.ends(self.model, tokens)

    def encode_embedded_text(self, embedded: Tensor, ends: Tensor) -> Tensor:
        """`encode_text` from behind the token table, for towers with causal attention.

        Args:
            embedded: (n, L, W) token embeddings, L at most the context length.
            ends: (n,) position of each end token; what stands behind it does not count.

        Returns:
            (n, D), not normalised.
        """
        return text.encode_embedded(self.model, embedded, ends)

    def normalize(self, images: Images) -> Tensor:
        """(B, 3, H, W) pixels as the image tower takes them; padding is zero after the normalisation."""
        return images.normalized(self.pixel_mean, self.pixel_std)

    def normalize_pixels(self, pixels: Tensor) -> Tensor:
        """(..., 3, h, w) pixels in 0..255 without padding, uint8 or float, as the image tower takes them."""
        return (pixels.float() - self.pixel_mean[:, None, None]) / self.pixel_std[:, None, None]

    @property
    def temperature(self) -> Tensor:
        """The tower's own factor of the cosine; CLIP was trained with at most 100, SigLIP without a limit."""
        scale = self.model.logit_scale.exp()
        return scale.clamp(max=100) if self.model.logit_bias is None else scale

    @property
    def logit_bias(self) -> Tensor | None:
        """What a tower that was trained with a sigmoid (SigLIP) adds to its logits; None for all others."""
        return self.model.logit_bias

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Image embeddings (B, D), not normalised, of pixels (B, 3, h, w) of any size as `normalize` gives them."""
        return self.tower.encode(pixels)

    def dense_features(self, images: Images) -> dict[str, Tensor]:
        """Feature maps of the image tower, see `maft.clip.towers.base.ImageTower.dense_features`."""
        return self.tower.dense_features(self.normalize(images))

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
