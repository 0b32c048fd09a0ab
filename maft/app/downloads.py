"""The files of an answer that a visitor can take along, with the threshold and the hidden classes of the moment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from maft.app.photos import encoded
from maft.app.regions import VIEWS, View
from maft.predictor import Prediction


@dataclass(frozen=True)
class Wish:
    """How the answer is shown at the moment of a download.

    Attributes:
        view: what the overlay shows.
        none_below: confidence below which nothing has a label.
        opacity: of the colours over the picture, 0..1.
        hidden: labels that are switched off.
    """

    view: View
    none_below: float
    opacity: float
    hidden: frozenset[int]

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Wish:
        """From the parameters of an address.

        Raises:
            ValueError: one of them is not what it should be.
        """
        view = query.get("view", "semantic")
        if view not in VIEWS:
            raise ValueError(f"The view is one of {', '.join(VIEWS)}.")
        none_below, opacity = float(query.get("none_below", 0)), float(query.get("opacity", 0.6))
        if not 0 <= none_below <= 1 or not 0 <= opacity <= 1:
            raise ValueError("none_below and opacity are numbers in 0..1.")
        hidden = frozenset(int(label) for label in query.get("hidden", "").split(",") if label)
        return cls(view, none_below, opacity, hidden)

    def applied(self, prediction: Prediction) -> Prediction:
        """The prediction without what is below the threshold or switched off."""
        gone = np.isin(prediction.labels, list(self.hidden)) | (prediction.confidence < self.none_below)
        segments = tuple(one for one in prediction.segments if self._keeps(one["label"], one["score"]))
        ids, instances = prediction.segment_ids, prediction.instances
        if ids is not None:
            ids = np.where(np.isin(ids, [one["id"] for one in segments]), ids, 0)
        if instances is not None:
            instances = tuple(one for one in instances if self._keeps(one.label, one.score))
        labels = np.where(gone, -1, prediction.labels)
        return replace(prediction, labels=labels, segment_ids=ids, segments=segments, instances=instances)

    def _keeps(self, label: int, score: float) -> bool:
        return label not in self.hidden and score >= self.none_below


def _labels(prediction: Prediction, wish: Wish) -> bytes:
    return encoded(wish.applied(prediction).to_pil("labels"), "PNG")


def _json(prediction: Prediction, wish: Wish) -> bytes:
    return json.dumps(wish.applied(prediction).to_json(), ensure_ascii=False).encode()


def _overlay(prediction: Prediction, wish: Wish) -> bytes:
    picture = wish.applied(prediction).overlay(wish.opacity, kind=wish.view)
    return encoded(Image.fromarray(picture), "PNG")


DOWNLOADS: dict[str, tuple[str, Callable[[Prediction, Wish], bytes]]] = {
    "labels.png": ("image/png", _labels),
    "overlay.png": ("image/png", _overlay),
    "prediction.json": ("application/json", _json),
}
