"""MAFT+'s representation compensation: the tuned trunk keeps the multi-scale statistics of the pre-trained one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.errors import UserError
from maft.losses.step import TrainingStep
from maft.registry import LOSSES

SCALES = (1, 2, 4)


def strip_sums(features: Tensor, scales: Sequence[int] = SCALES) -> Tensor:
    """Rectified features, average-pooled at several scales and summed along rows and along columns.

    A map that is not square is first resized to a square of its longer side, while the pooling window stays the
    ``1 / scale`` part of its own width.

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
    """SmoothL1 between the strip sums of two feature maps (MAFT+, section 3.3).

    Args:
        student: (B, C, h, w), with gradient.
        teacher: (B, C, h, w), without.

    Returns:
        scalar, the mean over all sums.
    """
    with torch.autocast(student.device.type, enabled=False):
        wanted = strip_sums(teacher.detach().float(), scales)
        return F.smooth_l1_loss(strip_sums(student.float(), scales), wanted)


@LOSSES.register()
class RepresentationCompensationLoss(nn.Module):
    """Weighted :func:`representation_compensation_loss` of CLIP's dense features.

    Args:
        weight: factor of the loss.
        scales: cells per side that the map is pooled to.
    """

    def __init__(self, *, weight: float = 0.1, scales: Sequence[int] = SCALES) -> None:
        super().__init__()
        if not scales or any(scale < 1 for scale in scales):
            raise UserError(f"MODEL.LOSSES.RepresentationCompensationLoss.SCALES is {scales}: give numbers from 1 on.")
        self.weight = weight
        self.scales = tuple(scales)

    def forward(self, step: TrainingStep) -> dict[str, Tensor]:
        """``{"loss_representation_compensation": scalar}``.

        Raises:
            UserError: the classifier keeps no pre-trained tower.
        """
        teacher = getattr(step.classifier, "teacher_features", None)
        if teacher is None:
            raise UserError(
                "RepresentationCompensationLoss needs a classifier that tunes CLIP's trunk, which "
                f"{type(step.classifier).__name__} does not: use MAFTPlus or remove the loss from MODEL.LOSSES."
            )
        features = step.proposals.clip_features
        if features is None:
            features = step.clip.dense_features(step.images.normalized(step.clip.pixel_mean, step.clip.pixel_std))
        loss = representation_compensation_loss(features["dense"], teacher(step.images, step.clip), self.scales)
        return {"loss_representation_compensation": self.weight * loss}
