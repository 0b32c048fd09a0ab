"""Image and label files as arrays; a file that cannot be used is refused by name."""

from __future__ import annotations

import os

import numpy as np
from detectron2.data import detection_utils
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from maft.errors import UserError

_UNREADABLE = (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(path: str | os.PathLike[str], image_format: str = "RGB") -> NDArray[np.uint8]:
    """Reads a picture, turned upright by its EXIF orientation.

    Args:
        path: any file Pillow reads.
        image_format: ``"RGB"`` or ``"BGR"``.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UserError: the file is missing, truncated or not a picture.
    """
    _require(path, "image")
    try:
        return np.ascontiguousarray(detection_utils.read_image(os.fspath(path), image_format))
    except _UNREADABLE as error:
        raise UserError(f"Image {path} cannot be read ({_reason(error)}): replace or remove it.") from error


def read_labels(path: str | os.PathLike[str]) -> NDArray[np.int32]:
    """Reads a label map with one value a pixel: grey, palette (its indices) or 16-bit PNG or TIFF.

    Returns:
        (H, W) int32, the values as stored.

    Raises:
        UserError: the file is missing, broken, or has colour channels.
    """
    labels = _read_array(path, "label map")
    if labels.ndim != 2:
        raise UserError(f"Label map {path} has colour channels: store one class id a pixel (grey or palette PNG).")
    return labels.astype(np.int32)


def read_panoptic_ids(path: str | os.PathLike[str]) -> NDArray[np.int32]:
    """Reads a panoptic PNG of the COCO format, segment id = R + 256 G + 65536 B.

    Returns:
        (H, W) int32 segment ids.

    Raises:
        UserError: the file is missing, broken, or not RGB.
    """
    colours = _read_array(path, "panoptic map")
    if colours.ndim != 3 or colours.shape[2] < 3:
        raise UserError(f"Panoptic map {path} is not an RGB image: ids are stored as R + 256 G + 65536 B.")
    return colours[..., :3].astype(np.int32) @ np.array([1, 256, 65536], dtype=np.int32)


def _read_array(path: str | os.PathLike[str], kind: str) -> NDArray[np.generic]:
    _require(path, kind)
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except _UNREADABLE as error:
        raise UserError(f"{kind.capitalize()} {path} cannot be read ({_reason(error)}): replace it.") from error


def _require(path: str | os.PathLike[str], kind: str) -> None:
    if not os.path.isfile(path):
        raise UserError(f"{kind.capitalize()} {path} does not exist: check its path.")


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
