"""All results of one image.

Shape letters: Q proposals, C classes, (H, W) output size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from maft.errors import UserError
from maft.inference.instance import instance_inference
from maft.inference.panoptic import panoptic_inference
from maft.inference.resized_masks import ResizedMasks
from maft.inference.semantic import keep_best_proposals, semantic_result
from maft.layers.score_maps import Tile, View
from maft.structures import RowLogits
from maft.summed_logits import summing_tile


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
