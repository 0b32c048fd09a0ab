"""Multi-scale deformable attention in plain PyTorch (Deformable DETR), without a compiled operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class FeatureLevels:
    """Geometry of feature maps that are flattened and joined along the token axis.

    Attributes:
        sizes: (height, width) of each of the L levels.
        extent: (L, 2) float32, (width, height) of each level.
        start: (L,) int32, index of each level's first token.
        centres: (S, 2) float32, (x, y) of every token's pixel centre in [0, 1], S tokens in all.
    """

    sizes: tuple[tuple[int, int], ...]
    extent: Tensor
    start: Tensor
    centres: Tensor

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]], device: torch.device) -> FeatureLevels:
        """Geometry of levels of these sizes, computed once for all layers of an encoder."""
        starts = [sum(h * w for h, w in sizes[:level]) for level in range(len(sizes))]
        centres = []
        for height, width in sizes:
            y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
            x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
            centres.append(torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).flatten(0, 1))
        extent = torch.tensor([(w, h) for h, w in sizes], dtype=torch.float32, device=device)
        start = torch.tensor(starts, dtype=torch.int32, device=device)
        return cls(tuple(sizes), extent, start, torch.cat(centres))


def _neighbours(coordinate: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """The two cells around a coordinate, clamped to the map, and their linear weights, zero outside: (..., 2) each."""
    lower = coordinate.floor()
    upper = lower + 1
    fraction = coordinate - lower
    last = length - 1
    inside = torch.stack([(lower >= 0) & (lower <= last), (upper >= 0) & (upper <= last)], dim=-1)
    cells = torch.stack([lower, upper], dim=-1).clamp(min=0).minimum(last[..., None]).int()
    return cells, torch.stack([1 - fraction, fraction], dim=-1) * inside


def deformable_attention_by_definition(
    values: Tensor, levels: FeatureLevels, locations: Tensor, weights: Tensor
) -> Tensor:
    """What `deformable_attention` computes, level by level: sum_l sum_p w_qlp v_l(x_qlp) for every query q and head.

    v_l is the map of values of level l, read bilinearly at location x_qlp and zero outside; w_qlp weighs point p.
    """
    batch, _, heads, width = values.shape
    queries = locations.shape[1]
    total = values.new_zeros(batch * heads, width, queries)
    for level, part in enumerate(values.split([h * w for h, w in levels.sizes], dim=1)):
        maps = part.permute(0, 2, 3, 1).reshape(batch * heads, width, *levels.sizes[level])
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + (sampled * weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
    return total.view(batch, heads * width, queries).transpose(1, 2)


def deformable_attention(values: Tensor, levels: FeatureLevels, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of values sampled bilinearly at fractional locations of several maps, zero outside the maps.

    Every sampled value is a sum over four cells, so the whole operation is one weighted bag of table rows per query
    and head: `embedding_bag` does it without writing the sampled values to memory, and with 32-bit indices.

    Args:
        values: (B, S, heads, d), tokens of all levels.
        levels: geometry of the S tokens.
        locations: (B, Q, heads, L, P, 2) as (x, y) in [0, 1] of each level.
        weights: (B, Q, heads, L, P), summing to one over (L, P).

    Returns:
        (B, Q, heads * d).
    """
    batch, tokens, heads, width = values.shape
    queries, device = locations.shape[1], values.device
    # Coordinates in cells, where integers are cell centres (align_corners=False).
    x, y = (locations * levels.extent[:, None] - 0.5).unbind(-1)
    map_width, map_height = levels.extent[:, None].unbind(-1)
    columns, column_weights = _neighbours(x, map_width)
    rows, row_weights = _neighbours(y, map_height)

    # Row of the (batch, token, head) table: ((b * S + start + row * width + column) * heads + head).
    head = torch.arange(heads, dtype=torch.int32, device=device)[:, None, None, None]
    image = torch.arange(batch, dtype=torch.int32, device=device)[:, None, None, None, None, None]
    base = rows * map_width[..., None].int() + levels.start[:, None, None]
    base = base * heads + head + image * (tokens * heads)
    index = base[..., :, None] + (columns * heads)[..., None, :]
    share = (row_weights * weights[..., None])[..., :, None] * column_weights[..., None, :]

    bags = batch * queries * heads
    table = values.reshape(batch * tokens * heads, width)
    summed = F.embedding_bag(
        index.reshape(bags, -1), table, mode="sum", per_sample_weights=share.reshape(bags, -1).to(table.dtype)
    )
    return summed.view(batch, queries, heads * width)


class DeformableAttention(nn.Module):
    """Attention of every token to a few learned locations around it on all levels.

    Args:
        width: token width.
        num_heads: heads, a divisor of ``width``.
        num_levels: feature levels.
        num_points: sampled locations per head and level.
    """

    def __init__(self, width: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(width, samples * 2)
        self.attention_weights = nn.Linear(width, samples)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        # Point p of every head starts p + 1 cells away, each head in a direction of its own; weights start equal.
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1)
        offsets = direction[:, None, None] * distance[:, None]
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, queries: Tensor, tokens: Tensor, levels: FeatureLevels) -> Tensor:
        """Attends from queries (B, S, width), one per token and with position, to tokens (B, S, width)."""
        batch, count, width = tokens.shape
        heads, samples = self.num_heads, (self.num_heads, self.num_levels, self.num_points)
        values = self.value_proj(tokens).view(batch, count, heads, width // heads)
        offsets = self.sampling_offsets(queries).view(batch, count, *samples, 2)
        weights = self.attention_weights(queries).view(batch, count, heads, -1).softmax(-1).view(batch, count, *samples)
        # Offsets are in cells of the level they are on.
        locations = levels.centres[:, None, None, None] + offsets / levels.extent[:, None]
        return self.output_proj(deformable_attention(values, levels, locations, weights))
