"""An image in any form that Python programs hold one in, as an array."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.data.reading import read_image, upright_rgb
from maft.errors import UserError, first_line, shown

ImageLike = np.ndarray | Image.Image | str | os.PathLike


def pixels_of(image: ImageLike) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a path, a Pillow image, or an array (H, W, 3) RGB or (H, W) grey.

    Raises:
        UserError: it is none of these, cannot be read, or has no pixels.
    """
    if isinstance(image, np.ndarray) and not isinstance(image, np.ma.MaskedArray):
        pixels = _of_array(np.asarray(image))
    elif isinstance(image, Image.Image):
        pixels = _of_pillow(image)
    elif isinstance(image, (str, os.PathLike)):
        if os.path.exists(image) and not os.path.isfile(image):
            raise UserError(f"{os.fspath(image)} is a folder or device: give the path of a picture.")
        pixels = read_image(image)
    else:
        raise UserError(
            f"An image is a path, a Pillow image or a NumPy array, not {shown(type(image))}: convert it, or open it "
            "with PIL.Image.open."
        )
    if not pixels.size:
        raise UserError(f"An image needs pixels, and this one is {pixels.shape[1]}x{pixels.shape[0]}.")
    return pixels


def _of_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    pixels = np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise UserError(
            f"An image array must be (height, width, 3) or (height, width) uint8, not {array.shape} {array.dtype}."
        )
    return pixels


def _of_pillow(image: Image.Image) -> NDArray[np.uint8]:
    try:
        return upright_rgb(image)
    except UserError:
        raise
    # Pillow decodes only now, and what its decoders raise for damaged files is no one family.
    except Exception as error:
        raise UserError(
            f"A Pillow image of mode {image.mode} cannot be read as RGB ({first_line(error)}): convert it, or open it "
            "again."
        ) from error
