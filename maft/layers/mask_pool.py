"""Means of feature maps under masks."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_mean(features: Tensor, weights: Tensor) -> Tensor:
    """Mean feature under each map of weights, in float32 also under autocast.

    Args:
        features: (B, C, h, w).
        weights: (B, ..., h, w) of sum one.

    Returns:
        (B, ..., C) float32.
    """
    with torch.autocast(features.device.type, enabled=False):
        pooled = weights.float().flatten(-2).flatten(1, -2) @ features.float().flatten(2).transpose(1, 2)
        return pooled.unflatten(1, weights.shape[1:-2])


def mask_pool(features: Tensor, inside: Tensor) -> Tensor:
    """Mean feature under every mask: (B, C, h, w), (B, Q, h, w) bool -> (B, Q, C) float32, zero for an empty mask.

    FC-CLIP's mask pooling: sum(m v) / (sum(m) + 1e-8) over the positions v of the map.
    """
    # In half precision 1e-8 would be zero.
    weights = inside.float()
    return weighted_mean(features, weights / (weights.sum((-2, -1), keepdim=True) + 1e-8))
