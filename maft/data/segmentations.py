"""The polygons and run lengths of COCO's annotations, checked before anything is allocated for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from maft.errors import UserError, shown


def decode_segmentation(code: Any, size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """The mask (h, w) of an annotation's ``"segmentation"``.

    Args:
        code: polygons, or run lengths column by column, compressed or not.
        size: (h, w) of the image.
        where: the annotation, for messages.

    Raises:
        UserError: see `check_segmentation`.
    """
    runs = check_segmentation(code, size, where)
    if runs is None:
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(code, *size))).astype(bool)
    # The library's own decoder writes beyond a mask that the runs do not fill.
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[::-1]).T


def check_segmentation(code: Any, size: tuple[int, int], where: str) -> NDArray[np.int64] | None:
    """Reads an annotation's ``"segmentation"`` without decoding it; arguments as above.

    Returns:
        The run lengths, which fill the image; None for polygons, whose points are near the image.

    Raises:
        UserError: it is none of both, or does not fit the image.
    """
    if not code:
        raise UserError(f"{where} has no segmentation.")
    try:
        if isinstance(code, list):
            _check_polygons(code, size, where)
            return None
        (height, width), counts = code["size"], code["counts"]
        text = counts.encode("ascii") if isinstance(counts, str) else counts
        runs = _uncompressed(text) if isinstance(text, bytes) else np.array(text)
        if runs.ndim != 1 or runs.dtype.kind != "i":
            raise ValueError("it is no list of whole numbers")
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"The segmentation of {where} is neither run-length encoded nor polygons of points near the image."
        ) from error
    if (height, width) != size:
        raise UserError(
            f"The mask of {where} is {shown(width)}x{shown(height)}, but its image is {size[1]}x{size[0]}: make "
            "them the same size."
        )
    if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise UserError(f"The run lengths of {where} do not fill its {width}x{height} pixels: write the file again.")
    return runs


def _check_polygons(code: list[Any], size: tuple[int, int], where: str) -> None:
    for polygon in code:
        points = np.array(polygon, dtype=np.float64)
        # The library allocates by coordinates, so that far ones exhaust the memory; NaN is not near either.
        if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not (np.abs(points) <= 10 * max(size)).all():
            raise ValueError("it is no polygon near the image")
        corners = points.reshape(-1, 2)
        if (corners.max(axis=0) < 0).any() or (corners.min(axis=0) > size[::-1]).any():
            raise UserError(
                f"A polygon of {where} lies outside its {size[1]}x{size[0]} image: it is of another image or size."
            )


def _uncompressed(text: bytes) -> NDArray[np.int64]:
    """The run lengths in COCO's text: groups of 5 bits, from the fourth on as differences to the one two before."""
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    last = codes & 32 == 0
    if not last.any() or not last[-1]:
        raise ValueError("it ends within a number")
    first = np.concatenate(([0], np.flatnonzero(last)[:-1] + 1))
    shifts = 5 * (np.arange(len(codes)) - np.repeat(first, np.diff(np.append(first, len(codes)))))
    if shifts.max() > 50:
        raise ValueError("it has a number of more than 55 bits")
    runs = np.add.reduceat((codes & 31) << shifts, first)
    runs -= np.where(codes[last] & 16, 1 << shifts[last] + 5, 0)
    for start in (1, 2):
        runs[start::2] = runs[start::2].cumsum()
    return runs
