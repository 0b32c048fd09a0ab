"""Sine position encoding of a feature map."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
