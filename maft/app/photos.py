"""A visitor's picture: checked before it is decoded, and shown as every browser can."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from maft.data.pixels import pixels_of
from maft.errors import UserError, first_line
from maft.miniature import render_scene

# Longest side of what the browser draws: enough for a screen, and smaller than what a phone takes.
MOST_SHOWN, LEAST_SHOWN = 1600, 640
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
# Pillow has readers of many more; some start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
_MOST_EXAMPLES = 24


@dataclass(frozen=True)
class Limits:
    """What a visitor may send."""

    megabytes: float = 30
    megapixels: float = 16

    @property
    def most_bytes(self) -> int:
        return int(self.megabytes * 2**20)

    def check_bytes(self, count: int) -> None:
        """Raises a UserError for a file that is too large."""
        if count > self.most_bytes:
            raise UserError(
                f"The file has more than {self.megabytes:g} MB, which is the most this app takes: save it smaller."
            )

    def check_pixels(self, width: int, height: int) -> None:
        """Raises a UserError for a picture that is too large."""
        if width * height > self.megapixels * 1e6:
            raise UserError(
                f"The picture has {width}x{height} pixels, {width * height / 1e6:.1f} megapixels, and this app takes "
                f"{self.megapixels:g}: make it smaller."
            )


@dataclass(frozen=True)
class Photo:
    """A picture that was checked.

    Attributes:
        data: the file as it came.
        preview: the picture upright and at the size at which it is shown, as a JPEG, or a PNG where it was enlarged.
        width, height: upright, in pixels.
        remark: what the visitor should know of it; often empty.
    """

    data: bytes
    preview: bytes
    width: int
    height: int
    remark: str = ""

    @property
    def size(self) -> int:
        """Bytes that it needs."""
        return len(self.data) + len(self.preview)

    def pixels(self) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB."""
        with Image.open(io.BytesIO(self.data), formats=_FORMATS) as image:
            return pixels_of(image)

    def thumbnail(self) -> bytes:
        """A PNG of at most 160 pixels."""
        with Image.open(io.BytesIO(self.preview)) as image:
            image.thumbnail((160, 160))
            return encoded(image, "PNG")


def read_photo(data: bytes, limits: Limits) -> Photo:
    """Checks the bytes of a file and decodes it once.

    Raises:
        UserError: it is no picture, damaged, or larger than the limits.
    """
    limits.check_bytes(len(data))
    if not data:
        raise UserError("The file is empty: choose another picture.")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            limits.check_pixels(*image.size)
            pixels = pixels_of(image)
            several = image.format != "MPO" and _has_second(image)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(
            f"The picture has far more than {limits.megapixels:g} megapixels, which is the most this app takes: make "
            "it smaller."
        ) from None
    except UnidentifiedImageError:
        raise UserError(
            "The file is no picture, whatever its name says: choose a JPEG, PNG, WebP, TIFF or BMP file."
        ) from None
    # What the decoders raise for damaged files is no one family.
    except Exception as error:
        raise UserError(f"The picture cannot be read ({first_line(error)}): save it again as JPEG or PNG.") from error
    remark = "The file holds more than one picture: the first is used." if several else ""
    height, width = pixels.shape[:2]
    return Photo(data, _preview(pixels), width, height, remark)


def _has_second(image: Image.Image) -> bool:
    # Not n_frames: for a file that claims thousands it takes minutes.
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def shown_size(width: int, height: int) -> tuple[int, int]:
    """Width and height at which a picture is shown: small ones enlarged by a whole factor, large ones shrunk."""
    longest = max(width, height)
    if longest > MOST_SHOWN:
        return max(1, round(width * MOST_SHOWN / longest)), max(1, round(height * MOST_SHOWN / longest))
    factor = max(1, -(-LEAST_SHOWN // longest))
    return width * factor, height * factor


def as_shown(values: NDArray) -> NDArray:
    """(H, W, ...) values at the size at which their picture is shown, each the nearest one."""
    height, width = values.shape[:2]
    columns, rows = shown_size(width, height)
    return values[np.arange(rows) * height // rows][:, np.arange(columns) * width // columns]


def _preview(pixels: NDArray[np.uint8]) -> bytes:
    height, width = pixels.shape[:2]
    columns, rows = shown_size(width, height)
    enlarged = columns > width
    image = Image.fromarray(pixels)
    if (columns, rows) != (width, height):
        image = image.resize((columns, rows), Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)
    return encoded(image, "PNG" if enlarged else "JPEG", quality=90)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a picture's file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


Examples = list[tuple[str, Callable[[], bytes]]]


def drawn_examples(count: int = 8) -> Examples:
    """Scenes of the miniature world that no training sees: what each shows, and how to get its file."""

    scenes = [render_scene(index, "val") for index in range(count)]
    return [(scene.captions[0], partial(encoded, Image.fromarray(scene.image), "PNG")) for scene in scenes]


def folder_examples(folder: str | os.PathLike[str]) -> Examples:
    """The first pictures of a folder, by name.

    Raises:
        UserError: it is no folder, or holds no picture.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is no folder: give one with pictures as --examples.")
    files = sorted(file for file in Path(folder).iterdir() if file.suffix.lower() in _SUFFIXES and file.is_file())
    if not files:
        raise UserError(f"{folder} holds no picture ({', '.join(_SUFFIXES)}): give another folder as --examples.")
    return [(file.name, file.read_bytes) for file in files[:_MOST_EXAMPLES]]
