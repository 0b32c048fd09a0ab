"""Losses of the mask classifier: one file a loss."""

from maft.losses import (
    mask_aware,
    mask_consistency,
    mask_cross_entropy,
    representation_compensation,
    self_distillation,
)
from maft.losses.step import TrainingStep

__all__ = [
    "TrainingStep",
    "mask_aware",
    "mask_consistency",
    "mask_cross_entropy",
    "representation_compensation",
    "self_distillation",
]
