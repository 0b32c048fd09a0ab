"""From masks and class probabilities to semantic, panoptic and instance results: pure functions.

Shape letters: Q proposals, C classes, (H, W) output size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor

from maft.errors import UserError
from maft.layers.crops import tight_boxes
from maft.layers.score_maps import Tile, View, averaged_strips, best_classes, output_strips, resized_rows, source_rows
from maft.structures import Proposals, RowLogits, Vocabulary, as_clip_reads
from maft.summed_logits import pixel_probabilities, summing_tile


def image_result(
    probabilities: Tensor,
    masks: Tensor,
    size: tuple[int, int],
    *,
    padded_size: tuple[int, int] | None = None,
    image_size: tuple[int, int] | None = None,
    are_logits: bool,
    align_corners: bool = False,
    classes: int,
    seen: Tensor | None,
    things: Tensor | None,
    options: Mapping[str, Any],
    rows: RowLogits | None = None,
    background: bool = False,
) -> dict[str, Any]:
    """All results of one image, as `OpenVocabSegmentor.forward` documents them.

    Nothing but the results themselves is ever held for the whole output: masks and scores exist a few rows at a time.

    Args:
        probabilities: (Q, C) or (Q, C + 1), void last.
        masks: (Q, h, w) as proposed, of any resolution; logits or values in [0, 1].
        size: (H, W) of the output.
        padded_size: what the masks span; None: their own size.
        image_size: of the image within, from its first pixel on; None: all of it.
        are_logits: whether ``masks`` needs a sigmoid.
        align_corners: how masks are resized to ``padded_size``.
        classes: C.
        seen, things: (C,) bool, None where unknown.
        options: ``MODEL.INFERENCE`` in lower case, and "temperature" where there is one, see `semantic_result`.
        rows: of a batch of one; semantic results then sum these logits at the pixels.
        background: see `labels_of_scores`.

    Raises:
        UserError: panoptic or instance results are asked for and ``things`` is None.
    """
    whole = options["panoptic"] or options["instance"]
    padded_size = padded_size or (masks.shape[1], masks.shape[2])
    height, width = image_size or padded_size
    class_scores, cut = probabilities[:, :classes], options["best_masks_above"]
    tile = Tile(
        keep_best_proposals(class_scores) if cut else class_scores,
        masks, padded_size, 0, 0, height, width, are_logits, align_corners, cut,
    )  # fmt: skip
    result: dict[str, Any] = {}
    if options["semantic"]:
        penalty = seen * options["seen_penalty"] if seen is not None and options["seen_penalty"] else None
        shown = tile if rows is None else summing_tile(tile, rows)
        view = View((height, width), [(False, [shown])], bool(options["resize_before"] or whole))
        result |= semantic_result(
            [view],
            size,
            penalty,
            labels_only=options["labels_only"],
            background_below=options.get("background_below", 0.0),
            background=background,
            temperature=options.get("temperature"),
        )
    if not whole:
        return result
    if things is None:
        raise UserError(
            "Panoptic and instance results need to know which classes are things: call set_vocabulary with things, "
            "or set MODEL.INFERENCE.PANOPTIC False."
        )
    resized = ResizedMasks(tile, size)
    if options["panoptic"]:
        result["panoptic_seg"] = panoptic_inference(
            F.pad(probabilities, (0, classes + 1 - probabilities.shape[-1])),
            resized,
            things,
            object_mask_threshold=options["object_mask_threshold"],
            overlap_threshold=options["overlap_threshold"],
        )
    if options["instance"]:
        result["instances"] = instance_inference(
            class_scores,
            resized,
            most=options["max_instances"],
            things=things if options["panoptic"] else None,
        )
    return result


def label_options(options: Mapping[str, Any], *, windows: bool = False) -> dict[str, Any]:
    """``MODEL.INFERENCE`` for labels alone: an image's semantic result, computed as beside its panoptic one.

    Args:
        options: of the model, in lower case.
        windows: the model sees an image window by window, which knows no results of objects.
    """
    whole = (options["panoptic"] or options["instance"]) and not windows
    alone = {"semantic": True, "labels_only": True, "panoptic": False, "instance": False}
    return {**options, **alone, "resize_before": options["resize_before"] or whole}


def semantic_result(
    views: Sequence[View],
    size: tuple[int, int],
    penalty: Tensor | None,
    *,
    labels_only: bool,
    background_below: float = 0.0,
    background: bool = False,
    temperature: float | None = None,
) -> dict[str, Any]:
    """The semantic part of `image_result`, of the mean over all exposures of an image.

    The score of a class at a pixel is the sum over proposals of class probability times mask value. Where logits of
    texts are summed instead (`summing_tile`), it is the softmax of the sum, the largest of the texts of the class.

    Args:
        size: (H, W) of the output.
        penalty, background_below, background: see `labels_of_scores`.
        temperature: adds "sem_seg_tempered" (H, W), see `tempered_confidence`; None leaves it out.
    """
    labels, confidence, tempered, kept = [], [], [], []
    row_class = views[0].exposures[0][1][0].row_class
    for _, scores in averaged_strips(views, size):
        covered = None
        if row_class is not None:
            covered, scores = (scores != 0).any(dim=0), pixel_probabilities(scores, row_class)
        found, sure = labels_of_scores(scores, penalty, covered, background_below, background)
        labels.append(found)
        confidence.append(sure)
        if temperature is not None:
            tempered.append(tempered_confidence(scores, found, temperature))
        if not labels_only:
            kept.append(scores if penalty is None else scores - penalty[:, None, None])
    # An argmax over the scores could not tell a pixel that no mask covers from one of the first class.
    result = {"sem_seg_labels": torch.cat(labels), "sem_seg_confidence": torch.cat(confidence)}
    if temperature is not None:
        result["sem_seg_tempered"] = torch.cat(tempered)
    return result if labels_only else {**result, "sem_seg": torch.cat(kept, dim=1)}


def keep_best_proposals(probabilities: Tensor) -> Tensor:
    """(Q, C) with the rows of proposals that are no class's best set to zero, as OVSeg's demo draws them."""
    best = probabilities.argmax(dim=0)
    kept = torch.zeros_like(probabilities[:, :1]).index_fill(0, best, 1)
    return probabilities * kept


def has_background(vocabulary: Vocabulary) -> bool:
    """Whether the first class is the background, as PAS-21 names it."""
    return "background" in map(as_clip_reads, vocabulary.synonyms(0))


def labels_of_scores(
    scores: Tensor,
    penalty: Tensor | None = None,
    covered: Tensor | None = None,
    background_below: float = 0.0,
    background: bool = False,
) -> tuple[Tensor, Tensor]:
    """(H, W) int64 class of the highest semantic score, -1 where no mask says anything, and how sure that is.

    The confidence (H, W) is s_best / max(1, the sum of the scores of all classes), in 0..1: the share of the best
    class. Where all scores together are less than one, the rest is what the proposals leave to "no object".

    Args:
        scores: (C, H, W), C at least 1.
        penalty: (C,) subtracted from the score of each class (ZegFormer's calibration), or None. It decides which class
            is the best one, and does not count in the confidence.
        covered: (H, W) bool, where something is said; None: where any score is above zero.
        background_below: pixels whose best class scores less are of none, or of the background where there is one,
            also where no mask says anything.
        background: whether the first class is the background.
    """
    total = scores.sum(dim=0)
    covered = total > 0 if covered is None else covered
    best, labels = best_classes(scores if penalty is None else scores - penalty[:, None, None])
    if penalty is not None:
        best = best + penalty[labels]
    if background_below:
        unsure = best < background_below
        if background:
            best, labels = torch.where(unsure, scores[0], best), labels.masked_fill(unsure, 0)
        covered = covered | unsure if background else covered & ~unsure
    # Scores are never negative, but a penalty may push them below zero.
    sure = (best / total.clamp(min=1)).clamp(0, 1)
    return labels.masked_fill(~covered, -1), sure * covered


def tempered_confidence(scores: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """(...) float32 in 0..1, how sure labels are under a temperature, which changes none of them.

    With s_c, the semantic score of a class, it is s_label^(1 / T) / (sum over classes c of s_c^(1 / T)) times what the
    proposals say of the pixel at all, min(1, sum over classes c of s_c): the softmax of log s_c / T. T = 1 is the
    confidence of `labels_of_scores`; without a label it is 0.

    Args:
        scores: (C, ...), 0 or more.
        labels: (...) int64, -1 for none.
        temperature: T above 0; below 1 it makes the best class surer.
    """
    powers = (scores / scores.amax(dim=0).clamp(min=torch.finfo(scores.dtype).tiny)) ** (1 / temperature)
    share = powers.gather(0, labels.clamp(min=0)[None])[0] / powers.sum(dim=0).clamp(min=1)
    return share * scores.sum(dim=0).clamp(max=1) * (labels >= 0)


@dataclass(frozen=True)
class ResizedMasks:
    """Masks at the size of the output, a few rows at a time.

    Attributes:
        tile: the masks of one image as proposed.
        size: (H, W) of the output.
    """

    tile: Tile
    size: tuple[int, int]

    @classmethod
    def of(cls, proposals: Proposals, image_size: tuple[int, int], size: tuple[int, int]) -> ResizedMasks:
        """The masks of a batch of one, for those who read no class scores.

        Args:
            image_size: (height, width) at which the model saw the image, without padding.
            size: (H, W) of the output.
        """
        masks, (height, width) = proposals.masks[0].float(), proposals.own_size or image_size
        spanned = proposals.own_size or proposals.padded_size
        scores = masks.new_zeros(len(masks), 1)
        return cls(
            Tile(scores, masks, spanned, 0, 0, height, width, proposals.are_logits, proposals.align_corners), size
        )

    def selected(self, which: Tensor) -> ResizedMasks:
        """Some of the masks: (Q,) bool or (n,) int64."""
        return replace(self, tile=replace(self.tile, masks=self.tile.masks[which]))

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows of the output and the masks there, (Q, rows, W), logits or values in [0, 1] as they were proposed."""
        tile, (height, width) = self.tile, self.size
        for rows in output_strips(self.size, [(tile.height, tile.width)], len(tile.masks)):
            source, places = source_rows(tile.height, height, rows)
            yield slice(rows.start, rows.stop), resized_rows(tile.mask_rows(source), places, width)


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
