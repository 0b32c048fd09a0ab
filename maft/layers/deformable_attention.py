"""Multi-scale deformable attention (Deformable DETR), without an operator that must be compiled at installation."""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.layers.compiling import exporting
from maft.layers.deformable_bags import weighted_bags
from maft.layers.feature_levels import FeatureLevels


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

    A Triton kernel on a GPU, where Triton is installed; weighted bags of table rows in plain PyTorch elsewhere.

    Args:
        values: (B, S, heads, d), tokens of all levels.
        levels: geometry of the S tokens.
        locations: (B, Q, heads, L, P, 2) as (x, y) in [0, 1] of each level.
        weights: (B, Q, heads, L, P), summing to one over (L, P).

    Returns:
        (B, Q, heads * d).
    """
    if exporting():
        # Other runtimes know grid_sample, and its graph fits every size.
        return deformable_attention_by_definition(values, levels, locations, weights)
    if values.is_cuda and _has_triton():
        from maft.layers import deformable_triton

        if values.dtype in deformable_triton.TYPES:
            return deformable_triton.fused(values, levels, locations, weights)
    return weighted_bags(values, levels.sizes, levels.extent, locations, weights)


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return find_spec("triton") is not None


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
        weights = self.attention_weights(queries).view(batch, count, heads, -1).softmax(-1).view(batch, count, *samples)
        # Offsets are in cells of the level they are on. Arithmetic is quick on few, long dimensions.
        extent = levels.extent[:, None].expand(*samples, 2).reshape(-1)
        offsets = (self.sampling_offsets(queries) / extent).view(batch, count, -1, 2)
        locations = (levels.centres[:, None] + offsets).view(batch, count, *samples, 2)
        return self.output_proj(deformable_attention(values, levels, locations, weights))
