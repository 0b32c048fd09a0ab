"""Segments and instances of a model, as a user reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from maft.layers.crops import tight_boxes
from maft.predictor.prediction import Instance
from maft.structures import Vocabulary

# Values of all masks at once; what is computed of them takes some 40 bytes for each.
_MOST_VALUES = 2**26


def within(size: tuple[int, int], proposals: int) -> tuple[int, int]:
    """The size (height, width) at which the masks of a picture are compared: its own, or what the memory allows.

    Masks are proposed at a fraction of the size at which a model sees a picture, which is far smaller than a
    photograph: beyond that, enlarging them smooths their edges and finds nothing new.
    """
    scale = (_MOST_VALUES / (size[0] * size[1] * proposals)) ** 0.5
    return size if scale >= 1 else (max(1, int(size[0] * scale)), max(1, int(size[1] * scale)))


def _enlarged(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(N, *size) of (N, h, w), each pixel that of the nearest."""
    if tuple(values.shape[1:]) == size:
        return values
    rows, columns = (
        ((torch.arange(after, device=values.device) + 0.5) * (before / after)).long().clamp(max=before - 1)
        for before, after in zip(values.shape[1:], size, strict=True)
    )
    return values[:, rows][:, :, columns]


def segments_of(
    found: tuple[torch.Tensor, list[dict[str, Any]]], size: tuple[int, int], words: Vocabulary, none_below: float
) -> tuple[np.ndarray, tuple[dict[str, Any], ...]]:
    """(H, W) int32 ids and the segments of `Prediction`, of those of `maft.inference.panoptic_inference`."""
    ids, segments = _enlarged(found[0][None], size)[0], found[1]
    areas = torch.bincount(ids.flatten(), minlength=len(segments) + 1).tolist()
    kept = [segment for segment in segments if segment["score"] >= none_below]
    stays = torch.zeros(len(segments) + 1, dtype=torch.bool, device=ids.device)
    stays[[segment["id"] for segment in kept]] = True
    described = tuple(
        {
            "id": segment["id"],
            "label": segment["category_id"],
            "name": words.names[segment["category_id"]],
            "isthing": segment["isthing"],
            "area": areas[segment["id"]],
            "score": segment["score"],
        }
        for segment in kept
    )
    return ids.where(stays[ids], 0).cpu().numpy(), described


def instances_of(found: Instances, size: tuple[int, int], words: Vocabulary, none_below: float) -> tuple[Instance, ...]:
    """Those of `maft.inference.instance_inference`, best first; of the names that one mask was given, the best."""
    order = found.scores.argsort(descending=True, stable=True).cpu().numpy()
    _, first = np.unique(found.proposals.cpu().numpy()[order], return_index=True)
    best = found[torch.from_numpy(order[np.sort(first)]).to(found.scores.device)]
    best = best[best.pred_masks.flatten(1).any(1) & (best.scores >= none_below)]
    masks = _enlarged(best.pred_masks, size)
    boxes = tight_boxes(masks).tolist()
    return tuple(
        Instance(label, words.names[label], score, (float(x0), float(y0), float(x1), float(y1)), mask)
        for label, score, (x0, y0, x1, y1), mask in zip(
            best.pred_classes.tolist(), best.scores.tolist(), boxes, masks.cpu().numpy(), strict=True
        )
    )
