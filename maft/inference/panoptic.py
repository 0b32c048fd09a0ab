"""Segments that do not overlap.

Shape letters: Q proposals, C classes, (H, W) output size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maft.inference.resized_masks import ResizedMasks
from maft.layers.devices import sent


@torch.no_grad()
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
    order = keep.logical_not().int().argsort(stable=True)
    if keep.device.type == "cpu":
        # Others come last and own nothing. A processor saves their work; a GPU would have to wait for their number.
        order = order[: int(keep.sum())]
    if not len(order):
        return torch.zeros(size, dtype=torch.int32, device=keep.device), []
    keep, scores, labels, masks = keep[order], scores[order], labels[order], masks.selected(order)
    owner, inside, table = _ownership(masks, torch.where(keep, scores, -1))
    owned, owned_inside, area, _ = table
    accepted = keep & (owned_inside > 0) & (owned >= overlap_threshold * area)
    # All that is read from the device.
    found = torch.stack([labels.to(table), things[labels].to(table), accepted.to(table), *table]).cpu()
    ids, segments = _segments(found)
    return torch.where(inside, sent(ids, owner.device)[owner], 0), segments


def _ownership(masks: ResizedMasks, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Who has which pixel.

    Returns:
        (H, W) int64 place of the mask whose value times score is largest, the first of several; (H, W) bool whether
        its value is 0.5 or more; and of each mask (4, Q) float32 its pixels as owner, those of them that are inside,
        all of value 0.5 or more, and the sum of value times score over those inside.
    """
    owner = torch.empty(masks.size, dtype=torch.int64, device=scores.device)
    inside = torch.empty_like(owner, dtype=torch.bool)
    counts = torch.zeros(3, len(scores), dtype=torch.int64, device=scores.device)
    sums = torch.zeros_like(scores)
    groups = [(group, masks.selected(group), scores[group, None, None]) for group in masks.groups()]
    for rows in masks.row_strips():
        soft, peaks = scores.new_empty(len(scores), len(rows), masks.size[1]), []
        for group, members, weights in groups:
            proposed = members.at(rows)
            part = torch.sigmoid(proposed, out=soft[group]) if masks.tile.are_logits else soft[group].copy_(proposed)
            # Compared in floating point: sums of truth values are ten times as slow.
            counts[2, group] += torch.ge(part, 0.5, out=torch.empty_like(part)).flatten(1).sum(1).long()
            peaks.append((part * weights).amax(0))
        best, value = _best(soft, scores, torch.stack(peaks), len(groups[0][2]))
        sure = value >= 0.5
        strip = slice(rows.start, rows.stop)
        owner[strip], inside[strip] = best, sure
        places, sure = best.flatten(), sure.flatten()
        counts[0].scatter_add_(0, places, torch.ones_like(places))
        counts[1].scatter_add_(0, places, sure.long())
        sums += torch.zeros_like(sums).scatter_add_(0, places, scores[places] * value.flatten() * sure)
    return owner, inside, torch.cat([counts.to(sums), sums[None]])


def _best(soft: Tensor, scores: Tensor, peaks: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """(h, w) the first mask whose value times score is largest, and its value.

    Args:
        soft: (Q, h, w) values.
        scores: (Q,).
        peaks: (groups, h, w) the largest value times score of each ``group`` masks: the place of the largest costs
            ten times the largest itself, so it is looked for in its group alone.
    """
    steps = torch.arange(group, device=soft.device)[:, None, None]
    members = (peaks.argmax(0) * group + steps).clamp(max=len(soft) - 1)
    values = soft.gather(0, members)
    place = (values * scores[members]).argmax(0, keepdim=True)
    return members.gather(0, place)[0], values.gather(0, place)[0]


def _segments(found: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
    """(Q,) int32 segment id of each mask, 0 for none, and the segments; ``found`` is on the CPU."""
    ids = torch.zeros(found.shape[1], dtype=torch.int32)
    segments: list[dict[str, Any]] = []
    of_stuff: dict[int, int] = {}
    sums: list[list[float]] = []
    for place, (label, thing, accepted, _, pixels, _, total) in enumerate(found.T.tolist()):
        if not accepted:
            continue
        number = len(segments) + 1
        if not thing:
            number = of_stuff.setdefault(int(label), number)
        if number > len(segments):
            segments.append({"id": number, "isthing": bool(thing), "category_id": int(label)})
            sums.append([0.0, 0.0])
        ids[place] = number
        sums[number - 1][0] += total
        sums[number - 1][1] += pixels
    for segment, (total, pixels) in zip(segments, sums, strict=True):
        segment["score"] = total / pixels
    return ids, segments
