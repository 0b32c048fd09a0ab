"""A user's boxes and points, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from maft.errors import UserError, shown
from maft.interfaces import Proposer
from maft.structures import Prompts

Points = Sequence[ArrayLike] | NDArray[Any]

_BOXES = "boxes takes a list of (x0, y0, x1, y1) in pixels"
_POINTS = (
    "points takes a list of (x, y) in pixels, or of objects, each a list of (x, y) or (x, y, 1 on it or 0 outside it)"
)


def check_asked(proposer: Proposer, *, averaged: bool, several: bool, things: object) -> None:
    """Raises `UserError` where boxes and points cannot be answered.

    Args:
        averaged: whether the model averages several looks at a picture.
        several: whether there is more than one picture.
        things: of the call.
    """
    if not proposer.takes_prompts:
        raise UserError(
            f"{type(proposer).__name__}, the proposer of this model, takes no boxes and points: set "
            "MODEL.PROPOSER.NAME SAM."
        )
    if several:
        raise UserError("Boxes and points show the objects of one picture: call the predictor with one picture.")
    if things is not None:
        raise UserError("Boxes and points show one object each, countable or not: name no things with them.")
    if averaged:
        raise UserError(
            "Boxes and points follow no copies of a picture: set TEST.AUG.ENABLED and TEST.SLIDING_WINDOW.ENABLED "
            "False."
        )


def prompts_of(boxes: ArrayLike | None, points: Points | None, size: tuple[int, int]) -> Prompts:
    """Boxes and points as a proposer takes them.

    Args:
        boxes: (n, 4) x0, y0, x1, y1 in pixels, the right and lower ends exclusive; None: none.
        points: of each further object a point (x, y), or several, of which a third number says whether it lies on the
            object (1, as without it) or outside it (0); None: none.
        size: (height, width) of the image.

    Raises:
        UserError: there is neither, they have another form, or lie outside the image.
    """
    of_boxes = _boxes([] if boxes is None else _plain(boxes), size)
    listed = [] if points is None else _listed(_plain(points))
    objects = [_object(item, place, size) for place, item in enumerate(listed, 1)]
    if not len(of_boxes) + len(objects):
        raise UserError("There is no box and no point: give at least one, or leave boxes and points out.")
    return Prompts(torch.from_numpy(of_boxes), tuple(map(torch.from_numpy, objects)))


def _plain(values: Any, depth: int = 3) -> Any:
    """The same without tensors, also in lists: NumPy knows not all of their types, and they claim to have a length."""
    if isinstance(values, Tensor):
        return values.tolist()
    return [_plain(one, depth - 1) for one in values] if depth and isinstance(values, (list, tuple)) else values


def _boxes(boxes: ArrayLike, size: tuple[int, int]) -> NDArray[np.float32]:
    values = _numbers(boxes, _BOXES)
    if not values.size:
        return np.zeros((0, 4), np.float32)
    if values.ndim != 2 or values.shape[1] != 4:
        raise UserError(f"{_BOXES}, not {shown(boxes)}.")
    height, width = size
    for place, box in enumerate(values, start=1):
        x0, y0, x1, y1 = box
        if min(x0, y0) < 0 or x1 > width or y1 > height:
            raise UserError(
                f"Box number {place} {_written(box)} reaches outside the picture of {width}x{height} pixels: give x0, "
                "y0, x1, y1 within it."
            )
        if x0 >= x1 or y0 >= y1:
            raise UserError(
                f"Box number {place} {_written(box)} is empty: give x0, y0, x1, y1 with x0 < x1 and y0 < y1."
            )
    return values.astype(np.float32)


def _listed(points: Any) -> list[Any]:
    try:
        if isinstance(points, (str, bytes)):
            raise TypeError("text")
        return list(points)
    except TypeError as error:
        raise UserError(f"{_POINTS}, not {shown(points)}.") from error


def _object(item: Any, place: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """(k, 3) x, y and label of one object."""
    listed = _listed(item)
    rows = listed if listed and hasattr(listed[0], "__len__") else [listed]
    labelled = [[*row, 1] if hasattr(row, "__len__") and len(row) == 2 else row for row in rows]
    values = _numbers(labelled, _POINTS)
    if values.ndim != 2 or values.shape[1] != 3:
        raise UserError(f"{_POINTS}, not {shown(item)}.")
    height, width = size
    for x, y in values[:, :2]:
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(
                f"Point {_written((x, y))} of object number {place} lies outside the picture of {width}x{height} "
                "pixels: give x and y within it."
            )
    if not np.isin(values[:, 2], (0, 1)).all():
        raise UserError(f"The label of a point is 1 on the object or 0 outside it, not as in {shown(item)}.")
    if not values[:, 2].any():
        raise UserError(f"Of object number {place} no point lies on it, all are labelled 0: give one that does.")
    # What is rounded up to the edge would lie outside.
    ends = np.nextafter(np.array([width, height, 2], np.float32), np.float32(0))
    return np.minimum(values.astype(np.float32), ends)


def _numbers(values: ArrayLike, expected: str) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(values)
        # Text, dates and complex numbers would be made numbers of, and what is masked be seen.
        if numbers.size and (numbers.dtype.kind not in "biufO" or np.ma.is_masked(values)):
            raise TypeError(numbers.dtype)
        numbers = numbers.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{expected}, not {shown(values)}.") from error
    if not np.isfinite(numbers).all():
        raise UserError(f"{expected}, all finite, not {shown(values)}.")
    return numbers


def _written(numbers: Any) -> str:
    return f"({', '.join(f'{number:g}' for number in numbers)})"
