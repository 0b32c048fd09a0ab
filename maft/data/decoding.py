"""Picture files are opened with decoders that run inside this process, and made pixels."""

from __future__ import annotations

import logging
import os
from typing import IO

import numpy as np
from detectron2.utils.logger import log_first_n
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from maft.errors import UserError

# Pillow knows 30 more that nobody's pictures have, and starts Ghostscript for one of them, EPS. JPEG opens MPO, too.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "JPEG2000", "AVIF")


def opened(file: str | os.PathLike[str] | IO[bytes]) -> Image.Image:
    """A picture file, of which the header is read.

    Raises:
        UnidentifiedImageError: it is of none of the ``FORMATS``.
    """
    # Older releases of Pillow have no AVIF, and do not expect to be asked for it.
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        return Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        raise UnidentifiedImageError(f"it is no picture of the formats {', '.join(formats)}") from error


def is_one_of_several(image: Image.Image) -> bool:
    """Whether a picture is a page or frame of several, which are not counted: of very many that takes minutes."""
    return bool(getattr(image, "is_animated", False))


def upright_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of a picture, turned upright by its EXIF orientation.

    Grey values of 16 bit and numbers in [0, 1] are scaled to 0..255, which Pillow's own conversion would clip.

    Raises:
        UserError: there are other numbers in it.
    """
    # What the other pictures of a phone's photo (MPO) are, such as its depth, is not the photo.
    if image.format != "MPO" and is_one_of_several(image) and image.tell() == 0:
        text = f"{getattr(image, 'filename', '') or 'A picture'} holds several pictures: only the first is used."
        log_first_n(logging.WARNING, text, name=__name__, key="message")
    image = ImageOps.exif_transpose(image) or image
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return np.asarray(image.convert("RGB"))
    values, most = np.asarray(image), 1 if image.mode == "F" else 65535
    if not ((values >= 0) & (values <= most)).all():
        raise UserError(f"A picture of one number a pixel must hold 0 to {most}: convert it to 8 bit.")
    grey = np.round(values * (255 / most)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
