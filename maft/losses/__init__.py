"""Losses of the mask classifier: one file a loss. Importing the package registers them."""

from maft.losses import (  # noqa: F401
    balanced_cross_entropy,
    mask_aware,
    mask_consistency,
    mask_cross_entropy,
    representation_compensation,
    self_distillation,
)
