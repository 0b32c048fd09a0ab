"""Segments that do not overlap.

Shape letters: Q proposals, C classes, (H, W) output size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maft.inference.resized_masks import ResizedMasks


def panoptic_inference(
    probabilities: Tensor,
    masks: ResizedMasks,
    things: Tensor,
    *,
    object_mask_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Non-overlapping segments (MaskFormer's rule): each pixel goes to the proposal with the best score.

    Args:
        probabilities: (Q, C + 1), void last.
        masks: Q masks at the output size (H, W).
        things: (C,) bool; segments of one stuff class are merged.
        object_mask_threshold: least class probability of a segment.
        overlap_threshold: least share of a mask (values >= 0.5) that its proposal must still own.

    Returns:
        (H, W) int32 segment ids, 0 is void; and one dict per segment: id, isthing, category_id and score, the mean
        over its pixels of its proposal's class probability times mask value, in 0..1.
    """
    classes, size = probabilities.shape[1] - 1, masks.size
    scores, labels = probabilities.max(dim=-1)
    keep = (labels != classes) & (scores > object_mask_threshold)
    scores, labels, masks = scores[keep], labels[keep], masks.selected(keep)
    if not len(labels):
        return torch.zeros(size, dtype=torch.int32, device=labels.device), []

    owner = torch.empty(size, dtype=torch.int32, device=labels.device)
    inside, values = torch.empty_like(owner, dtype=torch.bool), torch.empty_like(owner, dtype=scores.dtype)
    owned, owned_inside, area = (torch.zeros_like(labels) for _ in range(3))
    for rows, proposed in masks.strips():
        soft = proposed.sigmoid() if masks.tile.are_logits else proposed
        weighted, confident = scores[:, None, None] * soft, soft >= 0.5
        best = weighted.argmax(dim=0, keepdim=True)
        owner[rows] = best[0]
        inside[rows], values[rows] = confident.gather(0, best)[0], weighted.gather(0, best)[0]
        owned += torch.bincount(best.flatten(), minlength=len(labels))
        owned_inside += torch.bincount(best.flatten(), inside[rows].flatten(), minlength=len(labels)).long()
        area += confident.flatten(1).sum(dim=1)
    is_segment = (owned_inside > 0) & (owned >= overlap_threshold * area)

    segments: list[dict[str, Any]] = []
    stuff_ids: dict[int, int] = {}
    ids = torch.zeros(len(labels), dtype=torch.int32)
    thing_flags = things[labels].tolist()
    for slot, (label, accepted) in enumerate(zip(labels.tolist(), is_segment.tolist(), strict=True)):
        if not accepted:
            continue
        if thing_flags[slot] or label not in stuff_ids:
            segments.append({"id": len(segments) + 1, "isthing": thing_flags[slot], "category_id": label})
            ids[slot] = len(segments)
            if not thing_flags[slot]:
                stuff_ids[label] = len(segments)
        else:
            ids[slot] = stuff_ids[label]
    segmentation = torch.where(inside, ids.to(owner.device)[owner], 0)
    areas = torch.bincount(segmentation.flatten(), minlength=len(segments) + 1)
    sums = torch.bincount(segmentation.flatten(), values.flatten(), minlength=len(segments) + 1)
    for segment, score in zip(segments, (sums / areas).tolist()[1:], strict=True):
        segment["score"] = score
    return segmentation, segments
