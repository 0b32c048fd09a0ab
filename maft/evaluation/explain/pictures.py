"""Small pictures of wrongly labelled pixels, for a page that holds everything itself."""

from __future__ import annotations

import base64
import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.data.reading import read_image
from maft.data.segmentations import decode_segmentation
from maft.errors import UserError
from maft.evaluation.explain.explanation import WorstMask

# Pixels of the longer side, which screens with small pixels show at half of it.
SIDE = 360
_QUALITY = 82
_MARGIN = 0.2
# So much of the image is shown at least, for the reader to know where he is.
_LEAST = 0.25
_MASK, _INK, _PAPER = (230, 0, 200), (0, 0, 0), (255, 255, 255)
_TINT = 0.45
_NO_IMAGE = 128

Picture = NDArray[np.uint8]


def worst_picture(one: WorstMask) -> tuple[str, bool]:
    """The image around the lost pixels, these outlined in white, the mask tinted magenta.

    Returns:
        a JPEG as the address that holds it ("data:..."), and whether the image could be read: where its file is gone,
        masks are drawn on grey.
    """
    lost = _decoded(one.lost, one.file)
    mask = np.zeros_like(lost) if one.mask is None else _decoded(one.mask, one.file)
    image, found = _image(one.file, lost.shape)
    window = _window(lost | mask)
    lost, mask = lost[window], mask[window]
    size = _shown_size(lost.shape)
    picture = _resized(image[window], size, cv2.INTER_AREA if size[0] < lost.shape[1] else cv2.INTER_CUBIC)
    around, shown = (_resized(one.astype(np.uint8), size, cv2.INTER_NEAREST) for one in (lost, mask))
    tinted = picture * (1 - _TINT) + np.array(_MASK) * _TINT
    drawn = np.where(shown[..., None] > 0, tinted, picture).astype(np.uint8)
    _outline(drawn, shown, _MASK, 2)
    _outline(drawn, around, _INK, 4)
    _outline(drawn, around, _PAPER, 2)
    buffer = io.BytesIO()
    Image.fromarray(drawn).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), found


def _decoded(code: dict[str, Any], file: str) -> NDArray[np.bool_]:
    height, width = code["size"]
    return decode_segmentation(code, (height, width), f"A mask of {file}")


def _image(file: str, shape: tuple[int, ...]) -> tuple[Picture, bool]:
    try:
        image = read_image(file)
    except UserError:
        return np.full((*shape, 3), _NO_IMAGE, np.uint8), False
    if image.shape[:2] != shape:
        return _resized(image, (shape[1], shape[0]), cv2.INTER_AREA), True
    return image, True


def _resized(picture: Picture, size: tuple[int, int], interpolation: int) -> Picture:
    """To a width and a height."""
    return np.asarray(cv2.resize(picture, size, interpolation=interpolation), np.uint8)


def _window(shown: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns around what is shown."""
    rows, columns = (np.flatnonzero(shown.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(None), slice(None)
    longest = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    height, width = shown.shape
    return _around(rows, height, longest), _around(columns, width, longest)


def _around(places: NDArray[np.integer], length: int, longest: int) -> slice:
    first, end = int(places[0]), int(places[-1]) + 1
    wanted = max(end - first + 2 * _MARGIN * longest, _LEAST * length, 0.6 * longest)
    margin = max(0, round((wanted - (end - first)) / 2))
    return slice(max(0, first - margin), min(length, end + margin))


def _shown_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Width and height."""
    factor = SIDE / max(shape)
    return max(1, round(shape[1] * factor)), max(1, round(shape[0] * factor))


def _outline(picture: Picture, mask: Picture, colour: tuple[int, int, int], width: int) -> None:
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, colour, width)
