"""Pictures of label maps: overlays with a legend, side-by-side comparisons, contact sheets. NumPy in, NumPy out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import cv2
import numpy as np
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
# A name and its colour.
Entry = tuple[str, tuple[int, int, int]]

# Pictures with a shorter longest side are enlarged by a whole factor, or text beside them would be larger than they.
_LEGIBLE_SIDE = 320
FONT_SIZE = 15
_LINE = 22
_MARGIN = 8
_PAPER = (255, 255, 255)
_INK = (25, 25, 25)
UNLABELLED = (40, 40, 40)


@lru_cache(maxsize=32)
def palette(count: int) -> Picture:
    """(count, 3) uint8 RGB colours, each as far as possible from all before it (in the CIELAB space).

    A longer palette starts with the shorter one.
    """
    steps = np.linspace(0, 255, 14).round()
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    coordinates = cv2.cvtColor(candidates[None].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0]
    lightness, chroma = coordinates[:, 0], np.hypot(coordinates[:, 1], coordinates[:, 2])
    # Near-black, near-white and grey would vanish on paper, on dark photographs or in the unlabelled tone.
    vivid = (lightness > 30) & (lightness < 92) & (chroma > 20)
    candidates, coordinates = candidates[vivid], coordinates[vivid]
    chosen = [int(np.argmin(np.abs(candidates - (235, 60, 60)).sum(axis=1)))]
    distance = np.full(len(candidates), np.inf)
    while len(chosen) < min(count, len(candidates)):
        distance = np.minimum(distance, ((coordinates - coordinates[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(distance.argmax()))
    colours = candidates[np.resize(chosen, count)].astype(np.uint8)
    colours.setflags(write=False)
    return colours


def overlay(
    image: Picture,
    labels: NDArray[np.integer],
    names: Sequence[str],
    alpha: float = 0.6,
    *,
    regions: NDArray[np.integer] | None = None,
    with_legend: bool = True,
) -> Picture:
    """Labels drawn over a grey version of an image, with outlines and a legend of the classes present.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) indices into ``names``; other values are unlabelled and drawn dark.
        names: class names; of comma-separated synonyms the legend shows the first.
        alpha: weight of the class colour, 0..1.
        regions: (H, W) numbers whose borders are drawn, such as those of segments; None: the labels.
        with_legend: put the legend below.

    Returns:
        (h, w, 3) uint8: the picture at the size of the image, or enlarged by a whole factor if that is small.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f"image {image.shape[:2]} and labels {labels.shape} differ in size")
    factor = enlargement(image)
    image, labels = enlarged(image, factor), enlarged(labels, factor)
    inside = (labels >= 0) & (labels < len(names))
    # One row more for everything that is unlabelled.
    table = np.concatenate([palette(len(names)), np.array([UNLABELLED], dtype=np.uint8)]).astype(np.float32)
    colours = table[np.where(inside, labels, len(names))]
    # Over a grey image a class has the colour of the legend wherever it is.
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    blended = grey[..., None] * (1 - alpha) + colours * alpha
    blended[_outlines(labels if regions is None else enlarged(regions, factor))] = _PAPER
    picture = blended.round().astype(np.uint8)
    return with_entries(picture, present(labels, names)) if with_legend else picture


def side_by_side(image: Picture, maps: Mapping[str, NDArray[np.integer]], names: Sequence[str]) -> Picture:
    """Image and label maps (ground truth, predictions) in a row, above a legend of the classes present.

    Args:
        image: (H, W, 3) uint8 RGB.
        maps: title -> (H, W) indices into ``names``; other values are unlabelled.
    """
    panels = [("image", enlarged(image, enlargement(image)))]
    for title, labels in maps.items():
        panels.append((title, overlay(image, labels, names, with_legend=False)))
    gap = np.full((panels[0][1].shape[0] + _LINE + _MARGIN, _MARGIN, 3), 255, dtype=np.uint8)
    row: list[Picture] = []
    for title, panel in panels:
        row += [_stacked([_text_line(title, panel.shape[1]), panel]), gap]
    strip = np.concatenate(row[:-1], axis=1)
    shown = np.concatenate([labels.ravel() for labels in maps.values()])
    return with_entries(strip, present(shown, names))


def legend(entries: Sequence[Entry], width: int, size: int = FONT_SIZE) -> Picture:
    """Names beside their colours, in as many columns as fit: (h, width, 3) uint8; ``size`` of the letters in pixels."""
    line, margin = size * _LINE // FONT_SIZE, size * _MARGIN // FONT_SIZE
    texts = [shortened(name, width - 3 * margin - size, size) for name, _ in entries]
    column = max((int(font(text, size).getlength(text)) for text in texts), default=0) + size + 3 * margin
    columns = max(1, min(len(entries), width // column))
    rows = -(-len(entries) // columns)
    sheet = Image.new("RGB", (width, rows * line + margin), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, (text, (_, colour)) in enumerate(zip(texts, entries, strict=True)):
        left = (place // rows) * column + margin
        top = (place % rows) * line + margin // 2
        draw.rectangle((left, top + 2, left + size, top + 2 + size), fill=colour, outline=_INK)
        draw.text((left + size + margin, top), text, fill=_INK, font=font(text, size))
    return np.asarray(sheet)


def with_entries(picture: Picture, entries: Sequence[Entry], size: int = FONT_SIZE) -> Picture:
    """A picture above the `legend` of these entries; without any, the picture."""
    return _stacked([picture, legend(entries, picture.shape[1], size)]) if entries else picture


def present(labels: NDArray[np.integer], names: Sequence[str]) -> list[Entry]:
    """Name and colour of the classes in labels of any shape, and of what is unlabelled."""
    inside = (labels >= 0) & (labels < len(names))
    colours = palette(len(names))
    counts = np.bincount(labels[inside], minlength=len(names))
    found = [(short_name(names[index]), tuple(colours[index])) for index in counts.nonzero()[0].tolist()]
    return found if inside.all() else [*found, ("unlabelled", UNLABELLED)]


def short_name(name: str) -> str:
    """The first of comma-separated synonyms."""
    return name.split(",")[0].strip()


def contact_sheet(pictures: Sequence[Picture], captions: Sequence[str]) -> Picture:
    """Pictures in rows of three, each shrunk to a width of at most 480 pixels, with its caption above.

    Raises:
        ValueError: there is no picture, or not one caption for each.
    """
    width = min(480, max(picture.shape[1] for picture in pictures))
    cells = []
    for picture, caption in zip(pictures, captions, strict=True):
        shrunk = Image.fromarray(picture)
        shrunk.thumbnail((width, picture.shape[0]), Image.Resampling.LANCZOS)
        cells.append(_stacked([_text_line(caption, width), np.asarray(shrunk)]))
    rows = []
    for line in (cells[first : first + 3] for first in range(0, len(cells), 3)):
        height = max(part.shape[0] for part in line)
        rows.append(np.concatenate([_on_paper(part, height + _MARGIN, width + _MARGIN) for part in line], axis=1))
    return _stacked(rows)


def _outlines(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    return edge


def enlargement(image: Picture) -> int:
    """The whole factor by which a small image is enlarged before it is drawn on."""
    return max(1, -(-_LEGIBLE_SIDE // max(image.shape[:2])))


def enlarged(array: NDArray, factor: int) -> NDArray:
    """(h, w, ...) with every pixel as a square of factor x factor."""
    return array if factor == 1 else array.repeat(factor, axis=0).repeat(factor, axis=1)


def _text_line(text: str, width: int) -> Picture:
    sheet = Image.new("RGB", (width, _LINE + _MARGIN), _PAPER)
    text = shortened(text, width - 4)
    ImageDraw.Draw(sheet).text((2, _MARGIN // 2), text, fill=_INK, font=font(text))
    return np.asarray(sheet)


def _stacked(parts: Sequence[Picture]) -> Picture:
    width = max(part.shape[1] for part in parts)
    return np.concatenate([_on_paper(part, part.shape[0], width) for part in parts], axis=0)


def _on_paper(picture: Picture, height: int, width: int) -> Picture:
    sheet = np.full((height, width, 3), 255, dtype=np.uint8)
    sheet[: picture.shape[0], : picture.shape[1]] = picture
    return sheet


def shortened(text: str, width: int, size: int = FONT_SIZE) -> str:
    """The text, or its beginning where the rest does not fit; characters that no font here has as their numbers."""
    if _font_file(text) is None:
        known = _characters(_FONT_FILE)
        text = "".join(letter if ord(letter) in known else f"\\u{ord(letter):04x}" for letter in text)
    letters = font(text, size)
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


# It has Latin, Greek, Cyrillic, Arabic and Hebrew letters, and comes with matplotlib.
_FONT_FILE = str(font_manager.findfont("DejaVu Sans"))


@lru_cache(maxsize=64)
def _characters(file: str) -> frozenset[int]:
    return frozenset(FT2Font(file).get_charmap())


@lru_cache(maxsize=4096)
def _font_file(text: str) -> str | None:
    """The first font, ours or one of the system's, that has every letter of a text."""
    letters = set(map(ord, text))
    if letters <= _characters(_FONT_FILE):
        return _FONT_FILE
    files = (entry.fname for entry in font_manager.fontManager.ttflist if "Last Resort" not in entry.name)
    return next((file for file in sorted(set(files)) if letters <= _characters(file)), None)


@lru_cache(maxsize=4096)
def font(text: str, size: int = FONT_SIZE) -> ImageFont.FreeTypeFont:
    """The font of a text, whatever its script, with letters of ``size`` pixels."""
    return ImageFont.truetype(_font_file(text) or _FONT_FILE, size=size)
