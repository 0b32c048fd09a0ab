"""The transformer of DETR (Carion et al., ECCV 2020): position codes enter the queries and keys of every layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sine_position_encoding(
    size: tuple[int, int], channels: int, *, device: torch.device | None = None, temperature: float = 10000.0
) -> Tensor:
    """Two-dimensional sine encoding normalised to [0, 2 pi] (DETR appendix A.4).

    Args:
        size: (height, width) of the map.
        channels: even number of channels: the first half encodes y, the second x; sine on even and cosine on odd ones.

    Returns:
        (channels, height, width) float32.
    """
    half = channels // 2
    index = torch.arange(half, device=device)
    frequency = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / half)

    def axis(length: int) -> Tensor:
        position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        angle = (position / (length + 1e-6) * 2 * math.pi)[:, None] / frequency
        return torch.where(index % 2 == 0, angle.sin(), angle.cos()).T

    height, width = size
    rows, columns = axis(height), axis(width)
    return torch.cat([rows[:, :, None].expand(-1, -1, width), columns[:, None, :].expand(-1, height, -1)])


class MLP(nn.Module):
    """Linear layers with ReLU between them: (..., input_dim) -> (..., output_dim)."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, layers: int) -> None:
        super().__init__()
        widths = [input_dim, *[hidden_dim] * (layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, both residual.

    Args:
        pre_norm: normalise the input of each sub-layer instead of the sum after it.
    """

    def __init__(self, dim: int, heads: int, feedforward_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Tokens (B, N, dim) and their position codes, broadcastable to them -> (B, N, dim)."""
        x = self._residual(x, self.norm1, lambda y: self._attend(self.self_attn, y + position, y + position, y))
        return self._residual(x, self.norm2, self._feed_forward)

    def _residual(self, x: Tensor, norm: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre_norm:
            return x + self.dropout(branch(norm(x)))
        return norm(x + self.dropout(branch(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(F.relu(self.linear1(x))))

    @staticmethod
    def _attend(attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attention(query, key, value, need_weights=False)[0]


class DecoderLayer(EncoderLayer):
    """Self-attention among the queries, attention to the image, feed-forward network; arguments as `EncoderLayer`."""

    def __init__(self, dim: int, heads: int, feedforward_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__(dim, heads, feedforward_dim, dropout, pre_norm)
        self.multihead_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, query_position: Tensor, keys: Tensor, memory: Tensor) -> Tensor:  # type: ignore[override]
        """One decoding step.

        Args:
            x: (B, Q, dim).
            query_position: (Q, dim) learned codes of the queries.
            keys: (B, N, dim) image tokens with their position codes.
            memory: (B, N, dim) image tokens.
        """
        q = query_position
        x = self._residual(x, self.norm1, lambda y: self._attend(self.self_attn, y + q, y + q, y))
        x = self._residual(x, self.norm2, lambda y: self._attend(self.multihead_attn, y + q, keys, memory))
        return self._residual(x, self.norm3, self._feed_forward)


class Transformer(nn.Module):
    """DETR's encoder and decoder.

    Args:
        encoder_layers: self-attention layers over the image tokens; 0 decodes from them directly.
        decoder_layers: layers whose every output is returned.
        pre_norm: normalise before the sub-layers instead of after them.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        feedforward_dim: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float,
        pre_norm: bool,
    ) -> None:
        super().__init__()
        layer = (dim, heads, feedforward_dim, dropout, pre_norm)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(encoder_layers))
        # Post-norm layers leave normalised tokens behind.
        self.encoder_norm = nn.LayerNorm(dim) if encoder_layers and pre_norm else nn.Identity()
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(decoder_layers))
        self.decoder_norm = nn.LayerNorm(dim)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, memory: Tensor, position: Tensor, queries: Tensor) -> Tensor:
        """Decodes queries from an image.

        Args:
            memory: (B, N, dim) image tokens.
            position: (N, dim) position codes of the tokens.
            queries: (Q, dim) learned position codes of the queries, whose content starts at zero.

        Returns:
            (L, B, Q, dim): the normalised output of every decoder layer.
        """
        for layer in self.encoder:
            memory = layer(memory, position)
        memory = self.encoder_norm(memory)
        keys = memory + position
        x = torch.zeros_like(queries).expand(len(memory), -1, -1)
        outputs = []
        for layer in self.decoder:
            x = layer(x, queries, keys, memory)
            outputs.append(self.decoder_norm(x))
        return torch.stack(outputs)
