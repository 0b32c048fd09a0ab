"""What was marked in the viewer, or typed, as an example."""

from __future__ import annotations

import json
import re
from typing import Any

from PIL import Image, ImageDraw

from maft.app.answers import FieldError
from maft.app.photos import Photo
from maft.errors import UserError
from maft.examples import Example
from maft.predictor import Predictor

_MOST_CORNERS = 5000
_LOST = "The mark did not arrive: mark the object again."


def example_of(predictor: Predictor, photo: Photo, mark: str, names: list[str] | None = None) -> Example:
    """The example that a mark shows.

    Args:
        mark: JSON of one entry, "point": [x, y], "box": [x0, y0, x1, y1] or "outline": [[x, y], ...], in shares of
            width and height in 0..1.
        names: what a model whose masks depend on words looks for.

    Raises:
        UserError: it is none of these, or shows nothing.
    """
    kind, numbers = _read(mark)
    pixels = photo.pixels()
    places = [(x * photo.width, y * photo.height) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
    if kind == "outline":
        canvas = Image.new("L", (photo.width, photo.height))
        ImageDraw.Draw(canvas).polygon(places, fill=255)
        return predictor.example(pixels, mask=canvas)
    if kind == "box":
        return predictor.example(pixels, box=[*places[0], *places[1]], class_names=names)
    return predictor.example(pixels, points=[places[0]], class_names=names)


def typed_box(text: str, photo: Photo) -> str:
    """The mark of a box that is typed as x0, y0, x1, y1 in pixels.

    Raises:
        UserError: it is no such box, or lies outside the photo.
    """
    numbers = re.findall(r"[^\s,;]+", text)
    try:
        x0, y0, x1, y1 = (float(number) for number in numbers)
    except ValueError:
        x0, y0, x1, y1 = 0.0, 0.0, 0.0, 0.0
    if not (0 <= x0 < x1 <= photo.width and 0 <= y0 < y1 <= photo.height):
        raise FieldError(
            "result",
            f"A box is x0, y0, x1, y1 in pixels of the picture, which has {photo.width}x{photo.height}, such as "
            f"0, 0, {photo.width // 2}, {photo.height // 2}.",
        )
    width, height = photo.width, photo.height
    return json.dumps({"box": [x0 / width, y0 / height, x1 / width, y1 / height]})


def _read(mark: str) -> tuple[str, list[float]]:
    try:
        ((kind, listed),) = json.loads(mark).items()
        places: Any = listed if kind == "outline" else [listed[:2], listed[2:]] if kind == "box" else [listed]
        numbers = [float(number) for x, y in places for number in (x, y)]
    except (TypeError, ValueError, ArithmeticError, AttributeError, RecursionError):
        raise UserError(_LOST) from None
    least = {"point": 2, "box": 4, "outline": 6}.get(kind)
    if least is None or not least <= len(numbers) <= 2 * _MOST_CORNERS or not all(0 <= one <= 1 for one in numbers):
        raise UserError(_LOST)
    return kind, numbers
