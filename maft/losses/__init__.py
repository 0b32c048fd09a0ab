"""Losses of the mask classifier: one file a loss."""

from maft.losses import mask_aware, self_distillation
from maft.losses.step import TrainingStep

__all__ = ["TrainingStep", "mask_aware", "self_distillation"]
