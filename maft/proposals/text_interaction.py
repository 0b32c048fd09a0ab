"""FreeSeg's text interaction: image tokens attend to the class texts before they are decoded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Scores of this many (token, head, text) triples are held at a time: 16 MiB in float32.
_CHUNK = 1 << 22


class TextInteraction(nn.Module):
    """Cross-attention from image tokens to texts, shared by all feature maps (FreeSeg section 3.3).

    Published for all maps in turn, with one property that trained weights depend on: texts are normalised once
    more before every map, so map i sees them normalised i + 1 times; and the residual is the normalised token.

    Args:
        width: channels of the feature maps.
        text_dim: width of the texts.
        inner_dim: total width of the attention.
        num_heads: heads, a divisor of ``inner_dim``.
        dropout: dropout on the attention weights.
    """

    def __init__(
        self, *, width: int, text_dim: int, inner_dim: int = 2048, num_heads: int = 8, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.token_norm = nn.LayerNorm(width)
        self.text_norm = nn.LayerNorm(text_dim)
        self.query_projection = nn.Linear(width, inner_dim)
        self.key_projection = nn.Linear(text_dim, inner_dim)
        self.value_projection = nn.Linear(text_dim, inner_dim)
        self.output_projection = nn.Linear(inner_dim, width)
        self.dropout = nn.Dropout(dropout)
        self.gamma = nn.Parameter(torch.full((width,), 0.1))
        projections = (self.query_projection, self.key_projection, self.value_projection, self.output_projection)
        for projection in projections:
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, maps: Sequence[Tensor], texts: Tensor) -> list[Tensor]:
        """Maps (B, width, h, w) in the order they are decoded, and texts (T, text_dim), void included -> the maps."""
        changed = []
        for features in maps:
            texts = self.text_norm(texts)
            tokens = self.token_norm(features.flatten(2).transpose(1, 2))
            attended = self._attend(tokens, texts)
            changed.append((tokens + self.gamma * attended).transpose(1, 2).unflatten(2, features.shape[-2:]))
        return changed

    def _attend(self, tokens: Tensor, texts: Tensor) -> Tensor:
        """Multi-head attention with the token-side projections folded into the few texts.

        q . k = x (Wq^T k) + bq . k, and the output projection of the values is taken per text, so no token is ever
        widened to ``inner_dim``: two matrix products with heads * T columns do it all.

        Args:
            tokens: (B, N, width).
            texts: (T, text_dim).
        """
        heads = self.num_heads
        keys = (
            self.key_projection(texts).unflatten(-1, (heads, -1)) * (self.key_projection.out_features // heads) ** -0.5
        )
        query_weight = self.query_projection.weight.unflatten(0, (heads, -1))
        query_bias = self.query_projection.bias.unflatten(0, (heads, -1))
        folded_keys = torch.einsum("thd,hdc->htc", keys, query_weight).flatten(0, 1)
        folded_bias = torch.einsum("thd,hd->ht", keys, query_bias).flatten()
        values = self.value_projection(texts).unflatten(-1, (heads, -1))
        output_weight = self.output_projection.weight.unflatten(1, (heads, -1))
        folded_values = torch.einsum("thd,chd->htc", values, output_weight).flatten(0, 1)

        def attend(part: Tensor) -> Tensor:
            scores = F.linear(part, folded_keys, folded_bias).unflatten(-1, (heads, -1))
            return self.dropout(scores.softmax(-1)).flatten(-2) @ folded_values

        step = max(1, _CHUNK // (len(folded_keys) * len(tokens)))
        return torch.cat([attend(part) for part in tokens.split(step, dim=1)], dim=1) + self.output_projection.bias
