"""Losses of the mask classifier: one file a loss."""

from maft.losses import (
    mask_aware,
    mask_consistency,
    mask_cross_entropy,
    representation_compensation,
    self_distillation,
)

__all__ = [
    "mask_aware",
    "mask_consistency",
    "mask_cross_entropy",
    "representation_compensation",
    "self_distillation",
]
