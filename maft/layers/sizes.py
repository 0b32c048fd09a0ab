"""Sizes of resized images."""

from __future__ import annotations

# As INPUT.MAX_SIZE_TEST usually stands to MIN_SIZE_TEST: what is computed must not grow with how thin an image is.
_LONGEST = 4


def with_short_side(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(height, width) of an image whose short side becomes ``short_side``; the other one is cut to a whole number.

    Of an image that is more than four times as long as wide, the long side becomes ``4 * short_side`` instead.
    """
    side, target = min(size), short_side
    if max(size) > _LONGEST * side:
        side, target = max(size), _LONGEST * short_side
    return max(1, int(size[0] * target / side)), max(1, int(size[1] * target / side))
