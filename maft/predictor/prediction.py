"""What was found in one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from maft.visualize import overlay


@dataclass(frozen=True)
class Instance:
    """One countable object.

    Attributes:
        label: index into ``class_names``.
        name: the user's word.
        score: in 0..1.
        box: (x0, y0, x1, y1) in pixels, the right and lower ends exclusive.
        mask: (H, W) bool.
    """

    label: int
    name: str
    score: float
    box: tuple[float, float, float, float]
    mask: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """What was found in one image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) int64 indices into ``class_names``, -1 where nothing was found.
        confidence: (H, W) float32 score of the label at each pixel.
        class_names: the user's words.
        segment_ids: (H, W) int32 panoptic segments, 0 where there is none; None unless things were named.
        segments: of each segment ``id``, ``label`` (index into ``class_names``), ``name``, ``isthing`` and ``area``.
        instances: best first; None unless things were named.
        unknown_words: words of ``class_names`` that the model's CLIP has never seen, see `Predictor.unknown_words`.
    """

    image: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    class_names: tuple[str, ...]
    segment_ids: np.ndarray | None = None
    segments: tuple[dict[str, Any], ...] = ()
    instances: tuple[Instance, ...] | None = None
    unknown_words: tuple[str, ...] = ()

    def summary(self) -> list[dict[str, Any]]:
        """The classes found, largest first: name, area in pixels, share of the image, mean score."""
        found = self.labels >= 0
        labels, classes = self.labels[found], len(self.class_names)
        areas = np.bincount(labels, minlength=classes)
        sums = np.bincount(labels, weights=self.confidence[found], minlength=classes)
        order = np.argsort(-areas, kind="stable")
        return [
            {
                "name": self.class_names[index],
                "label": int(index),
                "area": int(areas[index]),
                "share": float(areas[index] / self.labels.size),
                "score": float(sums[index] / areas[index]),
            }
            for index in order
            if areas[index]
        ]

    def overlay(self) -> np.ndarray:
        """(h, w, 3) uint8 picture of the labels over the image, with a legend of the classes found."""
        return overlay(self.image, self.labels, self.class_names)
