"""Sizes of resized images."""

from __future__ import annotations


def with_short_side(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(height, width) of an image whose short side becomes ``short_side``; the other one is cut to a whole number."""
    short = min(size)
    return int(size[0] * short_side / short), int(size[1] * short_side / short)
