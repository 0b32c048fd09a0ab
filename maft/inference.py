"""From masks and class probabilities to semantic, panoptic and instance results: pure functions.

Shape letters: Q proposals, C classes, (H, W) output size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor

from maft.errors import UserError
from maft.layers.crops import tight_boxes

# Of the scores of all classes at output size, which for a large photo and many names are more than the memory.
_BYTES_AT_A_TIME = 2**26


def image_result(
    probabilities: Tensor,
    masks: Tensor,
    size: tuple[int, int],
    *,
    are_logits: bool,
    classes: int,
    seen: Tensor | None,
    things: Tensor | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """All results of one image, as `OpenVocabSegmentor.forward` documents them.

    Args:
        probabilities: (Q, C) or (Q, C + 1), void last.
        masks: (Q, h, w) at image size; logits or values in [0, 1].
        size: (H, W) of the output.
        are_logits: whether ``masks`` needs a sigmoid.
        classes: C.
        seen, things: (C,) bool, None where unknown.
        options: ``MODEL.INFERENCE`` in lower case.

    Raises:
        UserError: panoptic or instance results are asked for and ``things`` is None.
    """
    whole = options["panoptic"] or options["instance"]
    if options["resize_before"] or whole:
        masks = resize_map(masks, size)
    soft = masks.sigmoid() if are_logits else masks
    result: dict[str, Any] = {}
    if options["semantic"]:
        penalty = seen * options["seen_penalty"] if seen is not None and options["seen_penalty"] else None
        class_scores, shown = probabilities[:, :classes], soft
        if options["best_masks_above"]:
            class_scores, shown = keep_best_proposals(class_scores), (soft > options["best_masks_above"]).to(soft.dtype)
        if options["labels_only"]:
            best = semantic_labels(class_scores, shown, size, penalty)
        else:
            scores = semantic_scores(class_scores, shown, size)
            best = labels_of_scores([scores], penalty)
            result["sem_seg"] = scores if penalty is None else scores - penalty[:, None, None]
        # An argmax over the scores could not tell a pixel that no mask covers from one of the first class.
        result["sem_seg_labels"], result["sem_seg_confidence"] = best
    if not whole:
        return result
    if things is None:
        raise UserError(
            "Panoptic and instance results need to know which classes are things: call set_vocabulary with things, "
            "or set MODEL.INFERENCE.PANOPTIC False."
        )
    if options["panoptic"]:
        result["panoptic_seg"] = panoptic_inference(
            F.pad(probabilities, (0, classes + 1 - probabilities.shape[-1])),
            soft,
            things,
            object_mask_threshold=options["object_mask_threshold"],
            overlap_threshold=options["overlap_threshold"],
        )
    if options["instance"]:
        result["instances"] = instance_inference(
            probabilities[:, :classes],
            masks if are_logits else masks.logit(eps=1e-6),
            most=options["max_instances"],
            things=things if options["panoptic"] else None,
        )
    return result


def resize_map(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize (align_corners False) of (N, h, w) maps to (N, *size)."""
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    return F.interpolate(values[None], size=size, mode="bilinear", align_corners=False)[0]


def semantic_scores(probabilities: Tensor, masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Score of each class at each pixel: the sum over proposals of class probability times mask value.

    Args:
        probabilities: (Q, C) class probabilities, zero rows for proposals that do not count.
        masks: (Q, h, w) in [0, 1] at image size; the sum is resized to ``size`` afterwards, as MAFT and OVSeg do.

    Returns:
        (C, H, W).
    """
    return resize_map(torch.einsum("qc,qhw->chw", probabilities, masks), size)


def keep_best_proposals(probabilities: Tensor) -> Tensor:
    """(Q, C) with the rows of proposals that are no class's best set to zero, as OVSeg's demo draws them."""
    best = probabilities.argmax(dim=0)
    kept = torch.zeros_like(probabilities[:, :1]).index_fill(0, best, 1)
    return probabilities * kept


def semantic_labels(
    probabilities: Tensor, masks: Tensor, size: tuple[int, int], penalty: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`labels_of_scores` of the `semantic_scores` of these arguments, of which a few classes' exist at a time."""
    classes = max(1, _BYTES_AT_A_TIME // (size[0] * size[1] * masks.element_size()))
    return labels_of_scores(
        (semantic_scores(part, masks, size) for part in probabilities.split(classes, dim=1)), penalty
    )


def labels_of_scores(parts: Iterable[Tensor], penalty: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(H, W) int64 class of the highest semantic score, -1 where no mask says anything, and how sure that is.

    The confidence (H, W) is s_best / max(1, the sum of the scores of all classes), in 0..1: the share of the best
    class. Where all scores together are less than one, the rest is what the proposals leave to "no object".

    Args:
        parts: (c, H, W) scores of all classes, part after part.
        penalty: (C,) subtracted from the score of each class (ZegFormer's calibration), or None. It decides which class
            is the best one, and does not count in the confidence.
    """
    best: Tensor | None = None
    start = 0
    for scores in parts:
        together = scores.sum(dim=0)
        if penalty is not None:
            scores = scores - penalty[start : start + len(scores), None, None]
        value, label = scores.max(dim=0)
        if best is None:
            best, labels, total = value, label, together
        else:
            total += together
            labels = torch.where(value > best, label + start, labels)
            best = torch.maximum(best, value)
        start += len(scores)
    assert best is not None, "a vocabulary has at least one class"
    if penalty is not None:
        best = best + penalty[labels]
    confidence = (best / total.clamp(min=1)).clamp(0, 1)
    # Scores are never negative, but a penalty may push them below zero.
    return labels.masked_fill(~(total > 0), -1), confidence


def panoptic_inference(
    probabilities: Tensor,
    masks: Tensor,
    things: Tensor,
    *,
    object_mask_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Non-overlapping segments (MaskFormer's rule): each pixel goes to the proposal with the best score.

    Args:
        probabilities: (Q, C + 1), void last.
        masks: (Q, H, W) in [0, 1] at the output size.
        things: (C,) bool; segments of one stuff class are merged.
        object_mask_threshold: least class probability of a segment.
        overlap_threshold: least share of a mask (values >= 0.5) that its proposal must still own.

    Returns:
        (H, W) int32 segment ids, 0 is void; and one dict per segment: id, isthing, category_id and score, the mean
        over its pixels of its proposal's class probability times mask value, in 0..1.
    """
    classes = probabilities.shape[1] - 1
    segmentation = torch.zeros(masks.shape[-2:], dtype=torch.int32, device=masks.device)
    scores, labels = probabilities.max(dim=-1)
    keep = (labels != classes) & (scores > object_mask_threshold)
    scores, labels, masks = scores[keep], labels[keep], masks[keep]
    if not len(labels):
        return segmentation, []

    owner = (scores[:, None, None] * masks).argmax(dim=0)
    confident = masks >= 0.5
    inside = confident.gather(0, owner[None])[0]
    owned = torch.bincount(owner.flatten(), minlength=len(labels))
    owned_inside = torch.bincount(owner[inside], minlength=len(labels))
    area = confident.flatten(1).sum(dim=1)
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
    segmentation = torch.where(inside, ids.to(owner.device)[owner], segmentation)
    values = scores[owner] * masks.gather(0, owner[None])[0]
    areas = torch.bincount(segmentation.flatten(), minlength=len(segments) + 1)
    sums = torch.bincount(segmentation.flatten(), values.flatten(), minlength=len(segments) + 1)
    for segment, score in zip(segments, (sums / areas).tolist()[1:], strict=True):
        segment["score"] = score
    return segmentation, segments


def instance_inference(
    probabilities: Tensor, mask_logits: Tensor, *, most: int, things: Tensor | None = None
) -> Instances:
    """The ``most`` best (proposal, class) pairs as instances.

    Args:
        probabilities: (Q, C) without void.
        mask_logits: (Q, H, W) at the output size; positive inside.
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
    logits = mask_logits[slots]
    masks = logits > 0
    inside = masks.flatten(1).float()
    confidence = (logits.sigmoid().flatten(1) * inside).sum(1) / (inside.sum(1) + 1e-6)
    result = Instances(tuple(mask_logits.shape[-2:]))
    result.pred_masks = masks
    result.pred_classes, result.proposals = labels, slots
    result.scores = scores * confidence
    result.pred_boxes = Boxes(tight_boxes(masks).float())
    return result
