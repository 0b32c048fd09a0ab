"""MAFT+'s representation compensation: the tuned trunk keeps the multi-scale statistics of the pre-trained one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from maft.interfaces import Loss, TrainingStep
from maft.options import Weight
from maft.registry import LOSSES

SCALES = (1, 2, 4)
Cells = Annotated[int, Field(ge=1, le=1024)]
Scales = Annotated[tuple[Cells, ...], Field(min_length=1)]


def strip_sums(features: Tensor, scales: Sequence[int] = SCALES) -> Tensor:
    """Rectified features, average-pooled at several scales and summed along rows and along columns.

    With P_n the map of means of relu(features) over windows of the n-th part of its side, the sums of scale n are
    sum_x P_n[y, x] for every y and sum_y P_n[y, x] for every x. A map that is not square is first resized to a square
    of its longer side, while the windows stay the n-th part of its own width.

    Args:
        features: (B, C, h, w).

    Returns:
        (B, C, L) the sums of all scales, concatenated.
    """
    features = F.relu(features)
    height, width = features.shape[-2:]
    if height != width:
        side = max(height, width)
        features = F.interpolate(features, size=(side, side), mode="bilinear", align_corners=False)
    sums = []
    for scale in scales:
        # A map narrower than the number of cells is as fine as it can be.
        pooled = F.avg_pool2d(features, max(width // scale, 1))
        sums += [pooled.sum(-1), pooled.sum(-2)]
    return torch.cat(sums, dim=-1)


def representation_compensation_loss(student: Tensor, teacher: Tensor, scales: Sequence[int] = SCALES) -> Tensor:
    """Mean of SmoothL1(R(s), R(t)), R the strip sums of a feature map (MAFT+, representation compensation).

    Args:
        student: s (B, C, h, w), with gradient.
        teacher: t (B, C, h, w), without.

    Returns:
        scalar, the mean over all sums.
    """
    with torch.autocast(student.device.type, enabled=False):
        wanted = strip_sums(teacher.detach().float(), scales)
        return F.smooth_l1_loss(strip_sums(student.float(), scales), wanted)


@LOSSES.register()
class RepresentationCompensationLoss(Loss):
    """Weighted :func:`representation_compensation_loss` of CLIP's dense features.

    Args:
        weight: factor of the loss.
        scales: cells per side that the map is pooled to.
    """

    def __init__(self, *, weight: Weight = 0.1, scales: Scales = SCALES) -> None:
        super().__init__()
        self.weight = weight
        self.scales = scales

    def forward(self, step: TrainingStep) -> dict[str, Tensor]:
        """``{"loss_representation_compensation": scalar}``.

        Raises:
            UserError: the classifier keeps no pre-trained tower.
        """
        teacher = step.classifier.teacher_features(step.images, step.clip)
        features = step.proposals.clip_features or step.clip.dense_features(step.images)
        loss = representation_compensation_loss(features["dense"], teacher, self.scales)
        return {"loss_representation_compensation": self.weight * loss}
