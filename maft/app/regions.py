"""What the browser draws: the regions of an answer, at the size at which the picture is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from maft.app.photos import as_shown
from maft.predictor import Prediction
from maft.visualize import palette

View = Literal["semantic", "panoptic", "instances"]
VIEWS: tuple[View, ...] = get_args(View)


@dataclass(frozen=True)
class Regions:
    """One view of an answer.

    Attributes:
        ids: (h, w) uint16, which region is seen at a pixel, from 1; 0 where there is none.
        confidence: (h, w) float32 in 0..1, what the threshold is compared with at a pixel.
        described: of each region its ``label``, ``name``, ``colour`` and ``score``, and in ``place`` the column and row
            of the pixel that is farthest from all other regions, where its name may stand, and how far that is.
    """

    ids: NDArray[np.uint16]
    confidence: NDArray[np.float32]
    described: list[dict[str, Any]]

    def packed(self) -> bytes:
        """The ids, two bytes a pixel (the lower first), then the confidence in whole percent, one byte a pixel."""
        # Rounded down, so that a threshold of whole percent decides as the exact value does.
        percent = (self.confidence * 100 + 1e-4).astype(np.uint8)
        return self.ids.astype("<u2").tobytes() + percent.tobytes()


def regions(prediction: Prediction, view: View) -> Regions | None:
    """A view of a prediction; None where it has none."""
    if view == "semantic":
        return _semantic(prediction)
    if view == "panoptic":
        return None if prediction.segment_ids is None else _panoptic(prediction, prediction.segment_ids)
    return None if prediction.instances is None else _instances(prediction)


def _semantic(prediction: Prediction) -> Regions:
    labels, confidence = as_shown(prediction.labels), as_shown(prediction.confidence)
    found, inverse = np.unique(labels, return_inverse=True)
    inverse = inverse.reshape(labels.shape)
    sums = np.bincount(inverse.ravel(), weights=confidence.ravel()) / np.bincount(inverse.ravel())
    kept = found >= 0
    # The label -1, if it is there, is the first.
    ids = inverse + int(kept[0])
    described = [_described(prediction, int(label), float(score)) for label, score in zip(found[kept], sums[kept])]
    return _placed(ids.astype(np.uint16), confidence, described)


def _panoptic(prediction: Prediction, segment_ids: NDArray[np.integer]) -> Regions:
    table = np.zeros(max((segment["id"] for segment in prediction.segments), default=0) + 1, np.uint16)
    for place, segment in enumerate(prediction.segments, start=1):
        table[segment["id"]] = place
    described = [_described(prediction, one["label"], one["score"]) for one in prediction.segments]
    return _of_ids(table[as_shown(segment_ids)], described)


def _instances(prediction: Prediction) -> Regions:
    instances = prediction.instances or ()
    ids = np.zeros(as_shown(prediction.labels).shape, np.uint16)
    # The best first, and a mask that is mostly hidden by better ones not at all, as in `Prediction.overlay`: the
    # threshold, which takes the worse ones first, then uncovers nothing.
    for number, one in enumerate(instances, start=1):
        mask = as_shown(one.mask)
        free = mask & (ids == 0)
        if 2 * np.count_nonzero(free) > np.count_nonzero(mask):
            ids[free] = number
    return _of_ids(ids, [_described(prediction, one.label, one.score) for one in instances])


def _of_ids(ids: NDArray[np.uint16], described: list[dict[str, Any]]) -> Regions:
    scores = np.array([0.0, *(one["score"] for one in described)], np.float32)
    return _placed(ids, scores[ids], described)


def _placed(ids: NDArray[np.uint16], confidence: NDArray[np.float32], described: list[dict[str, Any]]) -> Regions:
    inside = np.ones(ids.shape, np.uint8)
    inside[:, 1:][ids[:, 1:] != ids[:, :-1]] = 0
    inside[1:][ids[1:] != ids[:-1]] = 0
    # The frame of the picture is a border, too.
    depth = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    numbers = np.arange(1, len(described) + 1)
    for one, (row, column) in zip(described, ndimage.maximum_position(depth, ids, numbers) if described else []):
        one["place"] = [int(column), int(row), float(depth[row, column])]
    return Regions(ids, confidence, described)


def _described(prediction: Prediction, label: int, score: float) -> dict[str, Any]:
    name, colour = prediction.class_names[label], palette(len(prediction.class_names))[label]
    return {"label": label, "name": name.split(",")[0].strip(), "colour": colour.tolist(), "score": round(score, 4)}
