"""Mask values on a coarse token grid, without making the full-size masks they are read from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.structures import Proposals


def grid_probabilities_by_definition(
    proposals: Proposals, grid: tuple[int, int], crop: tuple[int, int] | None = None
) -> Tensor:
    """What `grid_probabilities` computes: two full resizes, to the padded image size and down to the grid."""
    height, width = proposals.padded_size if crop is None else crop
    masks = proposals.probabilities(proposals.padded_size)[:, :, :height, :width]
    return F.interpolate(masks.float(), size=grid, mode="bilinear", align_corners=False)


def grid_probabilities(proposals: Proposals, grid: tuple[int, int], crop: tuple[int, int] | None = None) -> Tensor:
    """Masks at the padded image size, resized bilinearly (``align_corners=False``) to a token grid.

    A bilinear resize reads two rows and two columns of the large map per cell, so only those are computed.

    Args:
        grid: (gh, gw) cells.
        crop: (height, width) of the part of the padded image that the grid spans; default: all of it.

    Returns:
        (B, Q, gh, gw) float32 in [0, 1].
    """
    values = proposals.masks.float()
    fractions = []
    for axis, cells in enumerate(grid):
        span = proposals.padded_size[axis] if crop is None else crop[axis]
        taps, fraction = _taps(span, cells, values.device)
        values = _read(values, 2 + axis, taps, proposals.padded_size[axis], proposals.align_corners)
        fractions.append(fraction)
    if proposals.are_logits:
        values = values.sigmoid()
    values = values.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    rows = torch.lerp(values[:, :, :, 0], values[:, :, :, 1], fractions[0][:, None, None])
    return torch.lerp(rows[..., 0], rows[..., 1], fractions[1])


def _taps(size: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The two source pixels of each cell, interleaved (2 * cells,), and the weight of the second (cells,)."""
    # torch rounds the scale, and then product and difference once, together: what is just not zero there is so here.
    scale = torch.tensor(size / cells, dtype=torch.float32).double()
    centre = ((torch.arange(cells, dtype=torch.float64) + 0.5) * scale - 0.5).float().clamp(min=0).to(device)
    low = centre.floor()
    return torch.stack([low, (low + 1).clamp(max=size - 1)], dim=1).flatten(), centre - low


def _read(masks: Tensor, axis: int, pixels: Tensor, size: int, align_corners: bool) -> Tensor:
    """Values at ``pixels`` of ``axis`` as if that axis had been resized bilinearly to ``size``."""
    given = masks.shape[axis]
    if align_corners:
        position = pixels * ((given - 1) / max(size - 1, 1))
    else:
        position = ((pixels + 0.5) * (given / size) - 0.5).clamp(min=0)
    low = position.floor().clamp(max=given - 1)
    weight = (position - low).view([-1 if dim == axis else 1 for dim in range(masks.dim())])
    first = masks.index_select(axis, low.long())
    return torch.lerp(first, masks.index_select(axis, (low + 1).clamp(max=given - 1).long()), weight)
