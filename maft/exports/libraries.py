"""Results as objects of other libraries, which are imported where they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maft.errors import UserError

# Label, score in 0..1, and (H, W) mask.
Object = tuple[int, float, NDArray[np.bool_]]


def supervision_detections(objects: Iterable[Object], class_names: Sequence[str]) -> Any:
    """``supervision.Detections`` with masks, boxes and scores; ``data["class_name"]`` has the names.

    Raises:
        UserError: supervision is not installed.
    """
    supervision = _installed("supervision")
    listed = list(objects)
    if not listed:
        return supervision.Detections.empty()
    labels, scores, masks = zip(*listed, strict=True)
    return supervision.Detections(
        xyxy=np.array([_box(mask) for mask in masks], dtype=np.float32),
        mask=np.stack(masks),
        confidence=np.array(scores, dtype=np.float32),
        class_id=np.array(labels),
        data={"class_name": np.array([class_names[label] for label in labels])},
    )


def fiftyone_labels(
    labels: NDArray[np.integer], objects: Iterable[Object], class_names: Sequence[str]
) -> dict[str, Any]:
    """A ``fiftyone.Segmentation`` (1 + label, 0 for none) and ``fiftyone.Detections`` of the objects, by name.

    Args:
        labels: (H, W) indices into ``class_names``, -1 for none.

    Raises:
        UserError: fiftyone is not installed.
    """
    fiftyone = _installed("fiftyone")
    height, width = labels.shape
    detections = []
    for label, score, mask in objects:
        left, top, right, bottom = _box(mask)
        box = [left / width, top / height, (right - left) / width, (bottom - top) / height]
        cut = mask[top:bottom, left:right]
        detections.append(
            fiftyone.Detection(label=class_names[label], bounding_box=box, mask=cut, confidence=float(score))
        )
    values = (labels + 1).astype(np.uint8 if len(class_names) <= 255 else np.uint16)
    return {
        "segmentation": fiftyone.Segmentation(mask=values),
        "detections": fiftyone.Detections(detections=detections),
    }


def _installed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f'to_{package} needs {package}: run pip install "maft[{package}]".') from None


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) of a mask, the right and lower ends exclusive; zeros where it is empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else (0, 0, 0, 0)
