"""The transformer of DETR (Carion et al., ECCV 2020): position codes enter the queries and keys of every layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.layers.token_parts import by_parts


def position_codes(features: Tensor, temperature: float = 10000.0) -> Tensor:
    """Two-dimensional sine codes of the positions of a map, normalised to [0, 2 pi], as DETR has them.

    Channel 2i of the y part is sin(y / temperature^(2i / half)), channel 2i + 1 the cosine of the same; half is the
    number of channels of each part.

    Args:
        features: (B, C, h, w), C even: the first half of the codes is of y, the second of x.

    Returns:
        (h * w, C) float32, row by row.
    """
    channels, height, width = features.shape[1:]
    # What is traced must hold its own tensors: sizes may be symbols, and a fake tensor must not outlive its mode.
    traced = torch.compiler.is_compiling() or type(features) not in (Tensor, nn.Parameter)
    axis = _axis_codes if traced else _kept_axis_codes
    rows = axis(height, channels // 2, temperature, features.device)[:, None].expand(-1, width, -1)
    columns = axis(width, channels // 2, temperature, features.device).expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def _axis_codes(length: int, channels: int, temperature: float, device: torch.device) -> Tensor:
    """(length, channels) codes of one axis."""
    index = torch.arange(channels, device=device)
    frequency = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / channels)
    position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    angle = (position / (length + 1e-6) * 2 * math.pi)[:, None] / frequency
    return torch.where(index % 2 == 0, angle.sin(), angle.cos())


# Axes of the feature maps of images seen last, some 100 KiB each.
@lru_cache(maxsize=64)
def _kept_axis_codes(length: int, channels: int, temperature: float, device: torch.device) -> Tensor:
    # A later training step may need what is first asked for in inference mode.
    with torch.inference_mode(False):
        return _axis_codes(length, channels, temperature, device)


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


class Attention(nn.MultiheadAttention):
    """Multi-head attention with a mask that all heads share; its base class wants it repeated for every head."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(dim, heads, dropout=dropout, batch_first=True)
        nn.init.xavier_uniform_(self.out_proj.weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """(B, Q, dim), (B, K, dim), (B, K, dim) and optional bool (B, Q, K), True where seen -> (B, Q, dim)."""
        parts = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3))
        q, k, v = (
            F.linear(tokens, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for tokens, weight, bias in parts
        )
        mask = None if visible is None else visible[:, None]
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, both residual.

    Args:
        attention: of the tokens to each other.
        dim: their width.
        pre_norm: normalise the input of each sub-layer instead of the sum after it.
    """

    def __init__(
        self, attention: nn.Module, dim: int, feedforward_dim: int, dropout: float = 0.0, pre_norm: bool = False
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = attention
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Tokens (B, N, dim) and their position codes, broadcastable to them -> (B, N, dim)."""
        x = self.residual(x, self.norm1, lambda y: self.self_attn(y + position, y + position, y))
        return self.fed_forward(x, self.norm2)

    def residual(self, x: Tensor, norm: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """What a sub-layer adds to its input, and the normalisation before it or after the sum."""
        if self.pre_norm:
            return x + self.dropout(branch(norm(x)))
        return norm(x + self.dropout(branch(x)))

    def fed_forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        """`residual` of the feed-forward network: (B, N, dim) -> (B, N, dim)."""
        return by_parts(lambda part: self.residual(part, norm, self.feed_forward), x)

    def feed_forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return self.linear2(self.dropout(F.relu(self.linear1(x), inplace=True)))


class DecoderLayer(EncoderLayer):
    """Self-attention among the queries, attention to the image, feed-forward network."""

    def __init__(self, dim: int, heads: int, feedforward_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__(Attention(dim, heads, dropout), dim, feedforward_dim, dropout, pre_norm)
        self.multihead_attn = Attention(dim, heads, dropout)
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
        x = self.residual(x, self.norm1, lambda y: self.self_attn(y + q, y + q, y))
        x = self.residual(x, self.norm2, lambda y: self.multihead_attn(y + q, keys, memory))
        return self.fed_forward(x, self.norm3)


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
        self.encoder = nn.ModuleList(
            EncoderLayer(Attention(dim, heads, dropout), dim, feedforward_dim, dropout, pre_norm)
            for _ in range(encoder_layers)
        )
        # Post-norm layers leave normalised tokens behind.
        self.encoder_norm = nn.LayerNorm(dim) if encoder_layers and pre_norm else nn.Identity()
        self.decoder = nn.ModuleList(
            DecoderLayer(dim, heads, feedforward_dim, dropout, pre_norm) for _ in range(decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(dim)

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
