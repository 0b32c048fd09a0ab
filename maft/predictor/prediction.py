"""What was found in one image, and the forms that other programs take it in."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.data.reading import panoptic_colours
from maft.errors import UserError
from maft.exports.coco import encoded_masks, encoded_regions, object_results, write_panoptic_map
from maft.exports.label_maps import label_image, write_label_map
from maft.exports.libraries import fiftyone_labels, supervision_detections
from maft.exports.overlays import named_overlay
from maft.files import atomic_path, write_json_atomic
from maft.visualize import palette, short_name

Kind = Literal["semantic", "panoptic", "instances"]
# What `Prediction.save` writes, and how the names of the files end.
ENDINGS = {
    "overlay": ("_overlay.png",),
    "labels": ("_labels.png", "_labels_colours.png"),
    "panoptic": ("_panoptic.png",),
    "json": (".json",),
}
# So many classes are named in the short form.
_SHOWN = 5


@dataclass(frozen=True, eq=False)
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
    mask: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """What was found in one image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) int64 indices into ``class_names``, -1 where it is unknown: no mask says anything, or it is less
            sure than ``none_below`` or ``alpha`` ask for.
        confidence: (H, W) float32 in 0..1: the share of the label at each pixel. With s_c, the sum over proposals of
            p(class c | proposal) times mask, it is s_label / max(1, sum over all classes c of s_c): what the proposals
            leave to "no object" counts as the rest. With ``alpha`` below 1 the calibrated one, see
            `maft.confidence.CalibratedConfidence`.
        class_names: the user's words.
        segment_ids: (H, W) int32 panoptic segments, 0 where there is none; None unless things were named.
        segments: of each segment ``id``, ``label`` (index into ``class_names``), ``name``, ``isthing``, ``area`` in
            pixels and ``score``.
        instances: best first, or of boxes and points one for each, in their order; None without these and things.
        unknown_words: words of ``class_names`` that the model's CLIP has never seen, see `Predictor.unknown_words`.
        alpha: the bound on false alarms that was asked for, see `Predictor`; 1 is none.
    """

    image: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    class_names: tuple[str, ...]
    segment_ids: np.ndarray | None = None
    segments: tuple[dict[str, Any], ...] = ()
    instances: tuple[Instance, ...] | None = None
    unknown_words: tuple[str, ...] = ()
    alpha: float = 1.0

    def __repr__(self) -> str:
        height, width = self.labels.shape
        return f"Prediction({width}x{height}: {self.described()})"

    def described(self) -> str:
        """The largest classes and their shares of the image, in words."""
        shares = [(short_name(row["name"]), row["share"]) for row in self._classes()]
        parts = [f"{name} {share:.0%}" for name, share in shares[:_SHOWN]]
        if len(shares) > _SHOWN:
            parts.append(f"{len(shares) - _SHOWN} more")
        if not (self.labels >= 0).all():
            parts.append(f"unknown {self.unknown:.0%}")
        return ", ".join(parts)

    @property
    def unknown(self) -> float:
        """The share of the image, 0..1, that has no label."""
        return float((self.labels < 0).mean())

    def summary(self) -> list[dict[str, Any]]:
        """The classes found, largest first: name, area in pixels, share of the image, mean confidence (``score``).

        Where some of the image has no label, the last row says so: its ``label`` is -1 and its ``name`` "unknown".
        """
        found = self._classes()
        if area := int((self.labels < 0).sum()):
            score = float(self.confidence[self.labels < 0].mean())
            found.append({"name": "unknown", "label": -1, "area": area, "share": self.unknown, "score": score})
        return found

    def _classes(self) -> list[dict[str, Any]]:
        """The rows of `summary` that have a word."""
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

    def overlay(
        self, alpha: float = 0.6, names: bool | Literal["legend"] = True, kind: Kind | None = None
    ) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 picture of the result over a grey version of the image.

        Args:
            alpha: weight of the colours, 0..1.
            names: True writes them into the regions, and into a legend below where there is no room; "legend" lists
                all below; False leaves them out.
            kind: what is drawn: the labels ("semantic"), the panoptic segments, or the instances, the best on top of
                others and those that are mostly hidden left out. None: segments where there are some, else labels.

        Raises:
            UserError: there are no segments or instances, because no things were named.
        """
        if not 0 <= alpha <= 1:
            raise UserError(f"The weight of the colours (alpha) is {alpha}: give a number from 0 to 1.")
        labels, regions = self._drawn(kind or ("semantic" if self.segment_ids is None else "panoptic"))
        return named_overlay(self.image, labels, self.class_names, regions, alpha=alpha, names=names)

    def _drawn(self, kind: Kind) -> tuple[NDArray[np.integer], NDArray[np.integer] | None]:
        """Labels and regions of a picture, see `named_overlay`."""
        if kind == "semantic":
            return self.labels, None
        if kind == "panoptic":
            ids = self._segment_ids()
            label_of = np.full(max((s["id"] for s in self.segments), default=0) + 1, -1)
            for segment in self.segments:
                label_of[segment["id"]] = segment["label"]
            return label_of[ids], ids
        if self.instances is None:
            raise UserError("There are no instances, because no things were named: call the predictor with things.")
        labels, regions = np.full(self.labels.shape, -1), np.zeros(self.labels.shape, dtype=np.int32)
        for number, instance in enumerate(self.instances, start=1):
            seen = instance.mask & (regions == 0)
            # The same mask comes back under less likely names.
            if 2 * np.count_nonzero(seen) > np.count_nonzero(instance.mask):
                labels[seen], regions[seen] = instance.label, number
        return labels, regions

    def _segment_ids(self) -> NDArray[np.integer]:
        if self.segment_ids is None:
            raise UserError("There are no segments, because no things were named: call the predictor with things.")
        return self.segment_ids

    def _objects(self) -> Iterator[tuple[int, float, NDArray[np.bool_]]]:
        """Label, score and mask of the instances; without any, of the segments; without these, of the classes found."""
        if self.instances is not None:
            yield from ((instance.label, instance.score, instance.mask) for instance in self.instances)
        elif self.segment_ids is not None:
            yield from ((part["label"], part["score"], self.segment_ids == part["id"]) for part in self.segments)
        else:
            yield from ((row["label"], row["score"], self.labels == row["label"]) for row in self._classes())

    def to_coco(self, image_id: int | str = 1) -> list[dict[str, Any]]:
        """Results as pycocotools reads them (``COCO.loadRes``), one for each instance.

        Without instances there is one for each panoptic segment, and without these one for each class found.

        Returns:
            dicts of ``image_id``, ``category_id`` (index into ``class_names``), ``bbox`` ([x, y, width, height]),
            ``score`` and ``segmentation`` (run lengths: ``size`` [H, W] and ``counts``, a text).
        """
        if self.instances is not None:
            labels, scores = [one.label for one in self.instances], [one.score for one in self.instances]
            codes = [_encoded(one.mask) for one in self.instances]
        elif self.segment_ids is not None:
            labels, scores = [part["label"] for part in self.segments], [part["score"] for part in self.segments]
            by_id = encoded_regions(self.segment_ids)
            codes = [by_id[part["id"]] for part in self.segments]
        else:
            rows, by_label = self._classes(), encoded_regions(self.labels)
            labels, scores = [row["label"] for row in rows], [row["score"] for row in rows]
            codes = [by_label[label] for label in labels]
        return object_results(codes, labels, scores, image_id)

    def to_json(self) -> dict[str, Any]:
        """All that was found as plain data, which ``json.dumps`` takes.

        Returns:
            ``width`` and ``height`` of the image; ``class_names``; ``unknown_words``; ``alpha``; ``unknown``, the share
            of the image without a label; ``classes``, the rows of `summary` but for that of unknown; ``segments`` (None
            without things), of each ``id``, ``label``, ``name``, ``isthing``, ``area`` and ``score``; ``instances``
            (None without things), of each ``label``, ``name``, ``score`` and ``box`` (x0, y0, x1, y1). Each class,
            segment and instance has its mask as ``segmentation``, see `to_coco`.
        """
        height, width = self.labels.shape
        segments = instances = None
        by_label = encoded_regions(self.labels)
        if self.segment_ids is not None:
            by_id = encoded_regions(self.segment_ids)
            segments = [{**part, "segmentation": by_id[part["id"]]} for part in self.segments]
        if self.instances is not None:
            instances = [
                {
                    "label": one.label,
                    "name": one.name,
                    "score": one.score,
                    "box": [float(side) for side in one.box],
                    "segmentation": _encoded(one.mask),
                }
                for one in self.instances
            ]
        return {
            "width": width,
            "height": height,
            "class_names": list(self.class_names),
            "unknown_words": list(self.unknown_words),
            "alpha": self.alpha,
            "unknown": self.unknown,
            "classes": [{**row, "segmentation": by_label[row["label"]]} for row in self._classes()],
            "segments": segments,
            "instances": instances,
        }

    def to_supervision(self) -> Any:
        """``supervision.Detections`` of the same objects as `to_coco`; ``data["class_name"]`` has their names.

        Raises:
            UserError: supervision is not installed.
        """
        return supervision_detections(self._objects(), self.class_names)

    def to_fiftyone(self) -> dict[str, Any]:
        """FiftyOne's labels, to be added to a sample: ``sample.update_fields(prediction.to_fiftyone())``.

        Returns:
            ``segmentation``, a ``fiftyone.Segmentation`` whose values are 1 + the index into ``class_names`` and 0 for
            none; and ``detections``, a ``fiftyone.Detections`` of the same objects as `to_coco`.

        Raises:
            UserError: fiftyone is not installed.
        """
        return fiftyone_labels(self.labels, self._objects(), self.class_names)

    def to_pil(self, kind: Literal["overlay", "labels", "panoptic"] = "overlay") -> Image.Image:
        """A Pillow image: the overlay; the label map (see `label_image`); or the segment ids as R + 256 G + 65536 B.

        Raises:
            UserError: there are no segments, or there is no such kind.
        """
        if kind == "overlay":
            return Image.fromarray(self.overlay())
        if kind == "labels":
            return label_image(self.labels, palette(len(self.class_names)))
        if kind == "panoptic":
            return Image.fromarray(panoptic_colours(self._segment_ids()))
        raise UserError(f"There is no picture {kind!r} of a prediction: choose overlay, labels or panoptic.")

    def save(self, folder: str | Path, name: str = "prediction", formats: Collection[str] | None = None) -> list[Path]:
        """Writes the files of this prediction, each whole or not at all.

        ``<name>_overlay.png``; ``<name>_labels.png`` (see `write_label_map`; values are indices into ``class_names``);
        ``<name>_panoptic.png`` where things were named; ``<name>.json``, see `to_json`.

        Args:
            folder: is made if it does not exist.
            formats: some of "overlay", "labels", "panoptic" and "json"; None: all that there are.

        Returns:
            the files.

        Raises:
            UserError: a file cannot be written, or a format does not exist here.
        """
        if formats is None:
            formats = [kind for kind in ENDINGS if kind != "panoptic" or self.segment_ids is not None]
        if strangers := sorted(set(formats) - ENDINGS.keys()):
            raise UserError(f"There is no format {strangers[0]!r}: choose some of {', '.join(ENDINGS)}.")
        files: list[Path] = []
        for kind in formats:
            path = Path(folder) / (name + ENDINGS[kind][0])
            if kind == "overlay":
                with atomic_path(path) as temporary:
                    self.to_pil().save(temporary)
            elif kind == "panoptic":
                write_panoptic_map(path, self._segment_ids())
            elif kind == "json":
                write_json_atomic(path, self.to_json())
            else:
                files += write_label_map(path, self.labels, palette(len(self.class_names)))
                continue
            files.append(path)
        return files

    def _repr_png_(self) -> bytes:
        """The overlay, which notebooks show."""
        stream = io.BytesIO()
        self.to_pil().save(stream, "PNG")
        return stream.getvalue()


def _encoded(mask: NDArray[np.bool_]) -> dict[str, Any]:
    return encoded_masks(mask[None])[0]
