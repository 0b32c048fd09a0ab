"""FreeSeg's mask generator (Qin et al., CVPR 2023), which MAFT fine-tunes CLIP on: Mask2Former that reads the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.errors import UserError
from maft.layers.compiling import exporting
from maft.options import Channels, Dropout, NonNegative, Weight
from maft.proposals.mask2former import Mask2Former
from maft.registry import PROPOSERS
from maft.structures import TextClassifier

# Scores of this many (token, head, text) triples are held at a time; on a CPU 4 MiB in float32, for its cache.
_CHUNK_ON_CPU, _CHUNK = 1 << 20, 1 << 22


class TextInteraction(nn.Module):
    """Cross-attention from image tokens to texts, shared by all feature maps (FreeSeg's semantic context interaction).

    A map of tokens x becomes x' + gamma * Attention(queries x', keys t, values t) with x' = LN(x) and t the texts.
    Trained weights depend on two of its properties: the residual is the normalised token, and texts are normalised once
    more before every map, so that map i sees them normalised i + 1 times.

    Args:
        width: channels of the feature maps.
        text_dim: width of the texts.
        inner_dim: total width of the attention.
        num_heads: heads, a divisor of ``inner_dim``.
        dropout: dropout on the attention weights.
    """

    def __init__(self, *, width: int, text_dim: int, inner_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.token_norm = nn.LayerNorm(width)
        self.text_norm = nn.LayerNorm(text_dim)
        self.q_proj = nn.Linear(width, inner_dim)
        self.k_proj = nn.Linear(text_dim, inner_dim)
        self.v_proj = nn.Linear(text_dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, width)
        self.dropout = nn.Dropout(dropout)
        self.gamma = nn.Parameter(torch.full((width,), 0.1))
        projections = (self.q_proj, self.k_proj, self.v_proj, self.out_proj)
        for projection in projections:
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, maps: Sequence[Tensor], texts: Tensor) -> list[Tensor]:
        """Maps (B, width, h, w) in the order they are decoded, and texts (T, text_dim), void included -> the maps."""
        changed = []
        for features in maps:
            texts = self.text_norm(texts)
            tokens = self.token_norm(features.flatten(2).transpose(1, 2))
            changed.append(self._interact(tokens, texts).transpose(1, 2).unflatten(2, features.shape[-2:]))
        return changed

    def attend_by_definition(self, tokens: Tensor, texts: Tensor) -> Tensor:
        """Attention as the paper writes it, with every token widened to ``inner_dim``."""

        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)

        query = heads(self.q_proj(tokens))
        key, value = heads(self.k_proj(texts)), heads(self.v_proj(texts))
        weights = self.dropout((query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1))
        return self.out_proj((weights @ value).transpose(-2, -3).flatten(-2))

    def _interact(self, tokens: Tensor, texts: Tensor) -> Tensor:
        """Tokens plus gamma times their attention, with the projections of the tokens folded into the few texts.

        q . k = x (Wq^T k) + bq . k, and the output projection and gamma are taken per text, so no token is ever widened
        to ``inner_dim``: two matrix products with heads * T columns do it all.

        Args:
            tokens: (B, N, width).
            texts: (T, text_dim).
        """
        heads = self.num_heads
        keys = self.k_proj(texts).unflatten(-1, (heads, -1)) * (self.k_proj.out_features // heads) ** -0.5
        query_weight = self.q_proj.weight.unflatten(0, (heads, -1))
        query_bias = self.q_proj.bias.unflatten(0, (heads, -1))
        folded_keys = torch.einsum("thd,hdc->htc", keys, query_weight).flatten(0, 1)
        folded_bias = torch.einsum("thd,hd->ht", keys, query_bias).flatten()
        values = self.v_proj(texts).unflatten(-1, (heads, -1))
        output_weight = self.out_proj.weight.unflatten(1, (heads, -1))
        folded_values = torch.einsum("thd,chd->htc", values, output_weight).flatten(0, 1) * self.gamma
        shift = self.gamma * self.out_proj.bias

        def interact(part: Tensor) -> Tensor:
            scores = F.linear(part, folded_keys, folded_bias).unflatten(-1, (heads, -1))
            return (part + shift).add_(self.dropout(scores.softmax(-1)).flatten(-2) @ folded_values)

        if exporting():
            # How many parts there are depends on the size of the image.
            return interact(tokens)
        held = _CHUNK_ON_CPU if tokens.device.type == "cpu" else _CHUNK
        step = max(1, held // (len(folded_keys) * len(tokens)))
        return torch.cat([interact(part) for part in tokens.split(step, dim=1)], dim=1)


@PROPOSERS.register()
class FreeSeg(Mask2Former):
    """Mask2Former whose features attend to the class texts before decoding, so that masks depend on the vocabulary.

    The released models have 10 decoder layers, and their criterion leaves out the prediction before the last layer
    (``supervise_last_auxiliary`` False).

    Args:
        hidden_dim: width of queries, memories and mask features, which the interaction reads alike.
        interaction_dim, interaction_heads: total width and heads of the attention to the texts.
        dropout: of the pixel decoder and of that attention.
    """

    reads_words = True

    def __init__(
        self,
        backbone: nn.Module | None,
        channels: Mapping[str, int],
        embedding_dim: int,
        *,
        hidden_dim: Channels = 256,
        interaction_dim: Channels = 2048,
        interaction_heads: Channels = 8,
        dropout: Dropout = 0.1,
        class_weight: Weight = 1.0,
        mask_weight: Weight = 20.0,
        mask_loss: Literal["focal", "bce"] = "focal",
        num_points: NonNegative = 0,
        align_corners: bool = True,
        conv_dim: Channels | None = None,
        mask_dim: Channels | None = None,
        **common: Any,
    ) -> None:
        if interaction_dim % interaction_heads:
            raise UserError(
                f"INTERACTION_DIM {interaction_dim} must be a multiple of INTERACTION_HEADS {interaction_heads}."
            )
        if not hidden_dim == (conv_dim or hidden_dim) == (mask_dim or hidden_dim):
            raise UserError("CONV_DIM and MASK_DIM of FreeSeg must be its HIDDEN_DIM: leave them out.")
        super().__init__(
            backbone,
            channels,
            embedding_dim,
            conv_dim=hidden_dim,
            mask_dim=hidden_dim,
            hidden_dim=hidden_dim,
            dropout=dropout,
            class_weight=class_weight,
            mask_weight=mask_weight,
            mask_loss=mask_loss,
            num_points=num_points,
            align_corners=align_corners,
            **common,
        )
        self.interaction = TextInteraction(
            width=hidden_dim,
            text_dim=embedding_dim,
            inner_dim=interaction_dim,
            num_heads=interaction_heads,
            dropout=dropout,
        )

    def read_texts(
        self, mask_features: Tensor, memories: list[Tensor], text: TextClassifier
    ) -> tuple[Tensor, list[Tensor]]:
        """Memories, then mask features, attend to the texts with the void row last."""
        *memories, mask_features = self.interaction([*memories, mask_features], text.matrix)
        return mask_features, memories
