"""Cross-entropy of masks whose class is known: Mask-Adapter's classification loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.errors import UserError
from maft.interfaces import Loss, TrainingStep
from maft.layers.distributed import global_mean
from maft.options import Weight
from maft.registry import LOSSES


def mask_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log softmax(l)[c] over the masks with a label c and logits l of all processes (Mask-Adapter).

    Args:
        logits: (B, N, C) or (B, N, C + 1); void is a class that is never right.
        labels: (B, N) int64 in [0, C), -1 where there is no mask.

    Returns:
        scalar; zero with a gradient path when nothing is labelled.
    """
    with torch.autocast(logits.device.type, enabled=False):
        total = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="sum")
        return global_mean(total, (labels >= 0).sum())


@LOSSES.register()
class MaskCrossEntropyLoss(Loss):
    """Weighted :func:`mask_cross_entropy` of masks that carry labels.

    Args:
        weight: factor of the loss.
    """

    def __init__(self, *, weight: Weight = 2.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, step: TrainingStep) -> dict[str, Tensor]:
        """``{"loss_mask_cross_entropy": scalar}``.

        Raises:
            UserError: the masks carry no labels.
        """
        if step.proposals.labels is None:
            raise UserError(
                "MaskCrossEntropyLoss needs masks with labels: use it with the classifier MaskAdapter or the proposer "
                "GroundTruth, or remove it from MODEL.LOSSES."
            )
        loss = mask_cross_entropy(step.classification.logits, step.proposals.labels)
        return {"loss_mask_cross_entropy": self.weight * loss}
