"""Objects: pairs of a proposal and a class."""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from maft.inference.resized_masks import ResizedMasks
from maft.layers.crops import tight_boxes


def instance_inference(
    probabilities: Tensor, masks: ResizedMasks, *, most: int, things: Tensor | None = None
) -> Instances:
    """The ``most`` best (proposal, class) pairs as instances.

    Args:
        probabilities: (Q, C) without void.
        masks: Q masks at the output size (H, W); logits are positive inside.
        things: (C,) bool, keeps only these classes; None keeps all.

    Returns:
        Detectron2 instances with pred_masks (bool), pred_boxes, pred_classes, scores (class probability times the
        mean mask probability inside, in 0..1) and proposals, the place of each one's mask among the Q.
    """
    proposals, classes = probabilities.shape
    scores, index = probabilities.flatten().topk(min(most, proposals * classes), sorted=False)
    labels, slots = index % classes, index // classes
    kept = torch.ones_like(labels) if things is None else things[labels].long()
    # One mask may have several names.
    used = torch.zeros(proposals, dtype=kept.dtype, device=kept.device).scatter_reduce_(0, slots, kept, "amax")
    # All that is read from the device.
    count, different = torch.stack([kept.sum(), used.sum()]).tolist()
    order = kept.argsort(stable=True, descending=True)[:count]
    scores, labels, slots = scores[order], labels[order], slots[order]
    place = (used.cumsum(0) - 1)[slots]
    masks = masks.selected(used.argsort(stable=True, descending=True)[:different])
    inside = torch.empty(different, *masks.size, dtype=torch.bool, device=scores.device)
    sums, areas = scores.new_zeros(different), scores.new_zeros(different)
    for rows in masks.row_strips():
        for group in masks.groups():
            proposed = masks.selected(group).at(rows)
            logits = proposed if masks.tile.are_logits else proposed.logit(eps=1e-6)
            positive = logits > 0
            inside[group, rows.start : rows.stop] = positive
            # Counted in floating point: sums of truth values are ten times as slow.
            shown = positive.to(logits.dtype)
            areas[group] += shown.flatten(1).sum(1)
            sums[group] += shown.mul_(logits.sigmoid()).flatten(1).sum(1)
    result = Instances(masks.size)
    result.pred_masks = inside[place]
    result.pred_classes, result.proposals = labels, slots
    result.scores = scores * (sums / (areas + 1e-6))[place]
    result.pred_boxes = Boxes(tight_boxes(inside).float()[place])
    return result
