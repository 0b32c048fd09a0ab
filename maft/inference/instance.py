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
    if things is not None:
        kept = things[labels]
        scores, labels, slots = scores[kept], labels[kept], slots[kept]
    # One mask may have several names.
    different, place = slots.unique(return_inverse=True)
    masks = masks.selected(different)
    inside = torch.empty(len(different), *masks.size, dtype=torch.bool, device=scores.device)
    sums, areas = scores.new_zeros(len(different)), scores.new_zeros(len(different))
    for rows, proposed in masks.strips():
        logits = proposed if masks.tile.are_logits else proposed.logit(eps=1e-6)
        inside[:, rows] = logits > 0
        sums += (logits.sigmoid() * inside[:, rows]).flatten(1).sum(1)
        areas += inside[:, rows].flatten(1).sum(1)
    result = Instances(masks.size)
    result.pred_masks = inside[place]
    result.pred_classes, result.proposals = labels, slots
    result.scores = scores * (sums / (areas + 1e-6))[place]
    result.pred_boxes = Boxes(tight_boxes(inside).float()[place])
    return result
