"""Single masks of many images, each cut out of its own with some of what is around it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from maft.visualize import Picture

# Of the mask's longer side, on each side of it.
_AROUND = 0.3
_SHADE = 0.4
_OUTLINE = (255, 220, 0)


def cut_out(image: Picture, mask: NDArray[np.bool_], side: int = 240) -> Picture:
    """A square picture of a mask: what is around it is darkened, and a line goes around it.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, somewhere True.
        side: of the picture in pixels.

    Returns:
        (side, side, 3); white where the square reaches beyond the image.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    longest = round(max(bottom - top, right - left) * (1 + 2 * _AROUND))
    # Within the image as far as it reaches.
    top = max(0, min((top + bottom - longest) // 2, image.shape[0] - longest))
    left = max(0, min((left + right - longest) // 2, image.shape[1] - longest))
    window = slice(top, top + longest), slice(left, left + longest)
    part = image[window]
    size = max(1, round(part.shape[1] * side / longest)), max(1, round(part.shape[0] * side / longest))
    shown = cv2.resize(part, size, interpolation=cv2.INTER_AREA if longest > side else cv2.INTER_NEAREST)
    inside = cv2.resize(mask[window].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    shaded = np.where(inside[..., None] > 0, shown, (shown * _SHADE).astype(np.uint8))
    lines, _ = cv2.findContours(np.asarray(inside), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    drawn = cv2.drawContours(np.ascontiguousarray(shaded), lines, -1, _OUTLINE, 2)
    sheet = np.full((side, side, 3), 255, np.uint8)
    sheet[: drawn.shape[0], : drawn.shape[1]] = drawn[:side, :side]
    return sheet
