"""Pictures of results with the names of what was found written where it was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from maft.visualize import (
    FONT_SIZE,
    Picture,
    enlarged,
    enlargement,
    font,
    overlay,
    palette,
    present,
    short_name,
    shortened,
    with_entries,
)

# Places for names are looked for on a map of at most this side.
_SEARCHED_SIDE = 640
# A picture is as wide as so many letters are high, or wider.
_LETTERS = 45


def named_overlay(
    image: Picture,
    labels: NDArray[np.integer],
    class_names: Sequence[str],
    regions: NDArray[np.integer] | None = None,
    *,
    alpha: float = 0.6,
    names: bool | Literal["legend"] = True,
) -> Picture:
    """Labels over a grey version of an image, as `maft.visualize.overlay` draws them, and their names.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) indices into ``class_names``, -1 for none.
        regions: (H, W) numbers from 1 of segments or instances, 0 for none, each of one label; None: one of each label.
        alpha: weight of the class colour, 0..1.
        names: True writes each name into its region, at the deepest point of the largest connected part that leaves the
            names of larger ones free, and lists names that have no place there in a legend. "legend" lists all. False
            writes none.

    Returns:
        (h, w, 3) uint8, enlarged by a whole factor if the image is small.
    """
    picture = overlay(image, labels, class_names, alpha, regions=regions, with_legend=False)
    size = max(FONT_SIZE, max(picture.shape[:2]) // _LETTERS)
    if names == "legend":
        return with_entries(picture, present(labels, class_names), size)
    if not names:
        return picture
    if regions is None:
        regions = labels + 1
    label_of = _label_of_each(regions, labels)
    texts = {region: short_name(class_names[label]) for region, label in label_of.items()}
    factor = enlargement(image)
    picture, unplaced = write_names(picture, enlarged(regions, factor), texts, size)
    colours = palette(len(class_names))
    # One name says what a colour means.
    left_out = sorted({label_of[region] for region in unplaced} - {label_of[r] for r in texts if r not in unplaced})
    return with_entries(picture, [(short_name(class_names[i]), tuple(colours[i])) for i in left_out], size)


def _label_of_each(regions: NDArray[np.integer], labels: NDArray[np.integer]) -> dict[int, int]:
    """Region -> its label, the largest regions first; those without a label are left out."""
    inside = (regions > 0) & (labels >= 0)
    numbers = regions[inside]
    areas = np.bincount(numbers)
    label_of = np.zeros(len(areas), dtype=np.int64)
    label_of[numbers] = labels[inside]
    return {int(region): int(label_of[region]) for region in np.argsort(-areas, kind="stable") if areas[region]}


def write_names(
    picture: Picture, regions: NDArray[np.integer], texts: Mapping[int, str], size: int
) -> tuple[Picture, list[int]]:
    """Writes a text into each region, in white with a dark outline; no two of them overlap.

    Args:
        picture: (H, W, 3) uint8.
        regions: (H, W).
        texts: region -> text, in order of preference.
        size: of the letters in pixels.

    Returns:
        the picture, and the regions that are too thin or have no free place.
    """
    stride = max(1, -(-max(regions.shape) // _SEARCHED_SIDE))
    searched = regions[::stride, ::stride]
    sheet = Image.fromarray(picture)
    draw = ImageDraw.Draw(sheet)
    outline = max(1, size // 8)
    taken: list[tuple[float, float, float, float]] = []
    unplaced = []
    for region, full in texts.items():
        text = shortened(full, sheet.width // 2, size)
        letters = font(text, size)
        bounds = draw.textbbox((0, 0), text, font=letters, anchor="mm", stroke_width=outline)
        # Where the middle of the text may be: inside the picture and clear of what is written already.
        free = np.zeros(searched.shape, dtype=bool)
        free[_window(-bounds[0], -bounds[1], sheet.width - bounds[2], sheet.height - bounds[3], stride)] = True
        for left, top, right, bottom in taken:
            free[_window(left - bounds[2], top - bounds[3], right - bounds[0], bottom - bounds[1], stride)] = False
        depth = _depth(searched == region) * free * stride
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        if depth[y, x] < size / 3:
            unplaced.append(region)
            continue
        middle = (int(x) * stride, int(y) * stride)
        draw.text(middle, text, (255, 255, 255), letters, "mm", stroke_width=outline, stroke_fill=(20, 20, 20))
        taken.append((middle[0] + bounds[0], middle[1] + bounds[1], middle[0] + bounds[2], middle[1] + bounds[3]))
    return np.asarray(sheet), unplaced


def _depth(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(h, w) distance of every pixel of the largest connected part from its border, 0 elsewhere."""
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    largest = parts == 1 + areas.argmax() if len(areas) else mask
    return np.asarray(
        cv2.distanceTransform(np.pad(largest, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1], np.float32
    )


def _window(left: float, top: float, right: float, bottom: float, stride: int) -> tuple[slice, slice]:
    """The part of a map of every ``stride``-th pixel that a box of the picture covers."""
    columns, rows = (
        slice(max(0, round(a / stride)), max(0, round(b / stride))) for a, b in ((left, right), (top, bottom))
    )
    return rows, columns
