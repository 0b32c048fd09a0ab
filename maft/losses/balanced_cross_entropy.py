"""MaskCLIP++'s loss: cross-entropy of true masks in which classes and images weigh the same."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.errors import UserError
from maft.interfaces import Loss, TrainingStep
from maft.layers.distributed import global_mean
from maft.options import Weight
from maft.registry import LOSSES


def balanced_cross_entropy(logits: Tensor, labels: Tensor, images: Tensor, *, balance_classes: bool = True) -> Tensor:
    """The mean over images, of the mean over the classes present there, of the mean over a class's masks of

        -log softmax(l)[c]

    with l a mask's logits and c its class (MaskCLIP++). An image without masks does not count.

    Args:
        logits: (N, C), the masks of all images.
        labels: (N,) int64 in [0, C); -100 is a class whose masks are never wrong.
        images: (N,) int64, the image of each mask.
        balance_classes: False takes the mean over all masks of an image instead.

    Returns:
        float32 scalar, its average over all processes the mean over all their images; zero with a gradient path when
        there is no mask.
    """
    with torch.autocast(logits.device.type, enabled=False):
        terms = F.cross_entropy(logits.float(), labels, reduction="none")
        if balance_classes:
            groups, place = torch.stack([images, labels]).unique(dim=1, return_inverse=True)
            terms, images = _group_means(terms, place, groups.shape[1]), groups[0]
        present, place = images.unique(return_inverse=True)
        return global_mean(_group_means(terms, place, len(present)).sum(), len(present))


def _group_means(values: Tensor, place: Tensor, groups: int) -> Tensor:
    """(groups,) means of the values (N,) that have the same place (N,)."""
    sums = values.new_zeros(groups).index_add(0, place, values)
    return sums / torch.bincount(place, minlength=groups)


@LOSSES.register()
class BalancedCrossEntropyLoss(Loss):
    """Weighted :func:`balanced_cross_entropy` of masks that carry labels.

    Args:
        weight: factor of the loss.
        balance_classes: False weighs all masks of an image the same.
        count_empty: whether masks that the classifier says it cannot see count; those of MaskCLIP++ on ConvNeXt do.
    """

    def __init__(self, *, weight: Weight = 1.0, balance_classes: bool = True, count_empty: bool = False) -> None:
        super().__init__()
        self.weight, self.balance_classes, self.count_empty = weight, balance_classes, count_empty

    def forward(self, step: TrainingStep) -> dict[str, Tensor]:
        """``{"loss_balanced_cross_entropy": scalar}``.

        Raises:
            UserError: the masks carry no labels.
        """
        labels, classification = step.proposals.labels, step.classification
        if labels is None:
            raise UserError(
                "BalancedCrossEntropyLoss needs masks with labels: use it with the proposer GroundTruth, or remove it "
                "from MODEL.LOSSES."
            )
        counted = labels >= 0
        if classification.valid is not None and not self.count_empty:
            counted = counted & classification.valid
        images = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)
        loss = balanced_cross_entropy(
            classification.class_logits[counted],
            labels[counted],
            images[counted],
            balance_classes=self.balance_classes,
        )
        return {"loss_balanced_cross_entropy": self.weight * loss}
