"""MAFT's mask-aware loss: class scores of a proposal follow its overlap with the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.interfaces import Loss, TrainingStep
from maft.layers.distributed import global_mean
from maft.matching import soft_iou
from maft.options import Weight
from maft.registry import LOSSES
from maft.structures import Targets


def min_max_normalized(values: Tensor, valid: Tensor | None = None) -> Tensor:
    """Each row of (n, N) scaled to [0, 1] by its extremes over the valid columns (N,), with 1e-8 in the denominator."""
    counted = values if valid is None else values[:, valid]
    low, high = counted.aminmax(dim=1, keepdim=True)
    return (values - low) / (high - low + 1e-8)


def mask_aware_loss_by_definition(
    probabilities: Tensor, mask_probabilities: Tensor, targets: Sequence[Targets]
) -> Tensor:
    """`mask_aware_loss` as the papers write it, one pair at a time: the mean over images, targets k and proposals n of

        SmoothL1(p_n(c_k), (o_nk - min_m o_mk) / (max_m o_mk - min_m o_mk))
        o_nk = sum(m_n g_k) / (sum(m_n) + sum(g_k) - sum(m_n g_k))

    with p_n(c_k) the probability of proposal n for the class of target k, and o_nk the soft IoU of the proposal's mask
    probabilities m_n and the target's mask g_k. SmoothL1(a, b) is (a - b)^2 / 2 for all a and b in [0, 1].
    """
    terms = []
    for scores, masks, target in zip(probabilities, mask_probabilities, targets):
        for label, truth in zip(target.labels.tolist(), target.masks.float()):
            overlaps = []
            for mask in masks:
                common = (mask * truth).sum()
                overlaps.append(common / (mask.sum() + truth.sum() - common))
            for score, overlap in zip(scores[:, label], overlaps):
                wanted = (overlap - min(overlaps)) / (max(overlaps) - min(overlaps))
                terms.append(F.smooth_l1_loss(score, wanted))
    return torch.stack(terms).mean()


def mask_aware_loss(
    probabilities: Tensor,
    mask_probabilities: Tensor,
    targets: Sequence[Targets],
    valid: Tensor | None = None,
    *,
    normalize: bool = True,
) -> Tensor:
    """SmoothL1 between class scores and overlaps (the mask-aware loss of MAFT and MAFT+).

    Pairs of one image and one of its targets are pooled over the batch of all processes; each contributes all
    proposals.

    Args:
        probabilities: (B, N, C) softmax over the classes, with gradient.
        mask_probabilities: (B, N, H, W) in [0, 1], at the size of the target masks.
        targets: labels (n,) and masks (n, H, W) of each image; n may be 0.
        valid: (B, N) bool, proposals that count; None counts all.
        normalize: scale the overlaps of each target to [0, 1] over the proposals, as both papers do.

    Returns:
        scalar; zero with a gradient path when there is no pair.
    """
    predicted, expected = [], []
    # No precision but float32 can sum the pixels of a whole image.
    with torch.autocast(probabilities.device.type, enabled=False):
        for index, target in enumerate(targets):
            counted = None if valid is None else valid[index]
            if len(target.labels) == 0 or probabilities.shape[1] == 0 or (counted is not None and not counted.any()):
                continue
            with torch.no_grad():
                overlap = soft_iou(target.masks, mask_probabilities[index], epsilon=1e-7)
                if normalize:
                    overlap = min_max_normalized(overlap, counted)
            scores = probabilities[index].float()[:, target.labels].T
            predicted.append((scores if counted is None else scores[:, counted]).flatten())
            expected.append((overlap if counted is None else overlap[:, counted]).flatten())
        if not predicted:
            return global_mean(probabilities.float().sum() * 0.0, 0)
        scores, overlaps = torch.cat(predicted), torch.cat(expected)
        return global_mean(F.smooth_l1_loss(scores, overlaps, reduction="sum"), scores.numel())


@LOSSES.register()
class MaskAwareLoss(Loss):
    """Weighted :func:`mask_aware_loss` of the classifier's probabilities, without the void column.

    Args:
        weight: factor of the loss; 1 in the paper.
        normalize: scale the overlaps of each target to [0, 1]; the copy in the Mask-Adapter release does not.
        sigmoid_first: resize mask probabilities, as the MAFT+ release does, instead of mask logits.
    """

    def __init__(self, *, weight: Weight = 1.0, normalize: bool = True, sigmoid_first: bool = False) -> None:
        super().__init__()
        self.weight = weight
        self.normalize = normalize
        self.sigmoid_first = sigmoid_first

    def forward(self, step: TrainingStep) -> dict[str, Tensor]:
        """``{"loss_mask_aware": scalar}``."""
        probabilities = step.classification.class_logits.float().softmax(-1)
        with torch.no_grad():
            proposals = step.proposals
            if self.sigmoid_first and proposals.are_logits:
                proposals = replace(proposals, masks=proposals.masks.float().sigmoid(), are_logits=False)
            masks = proposals.probabilities(step.images.padded_size)
        loss = mask_aware_loss(probabilities, masks, step.targets, step.proposals.valid, normalize=self.normalize)
        return {"loss_mask_aware": self.weight * loss}
