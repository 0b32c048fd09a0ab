"""What one label map on disk holds, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

# Pillow modes whose array holds one number a pixel; the number of a palette image is its palette index.
_LABEL_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a dataset.

    Attributes:
        kind: what it is, in two or three words, such as ``unknown id``.
        text: one sentence: which file, what, and what to do.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class MaskContent:
    """What a label map holds.

    Attributes:
        size: (height, width); None when it cannot be read.
        bits: 8 or 16 (or 32), of a pixel as stored.
        counts: value -> number of pixels; empty when it cannot be read.
        problem: what is wrong with it, if anything.
    """

    size: tuple[int, int] | None
    bits: int
    counts: dict[int, int]
    problem: Problem | None


def inspect_mask(path: Path, num_classes: int, ignore_label: int, *, binary_is_meant: bool) -> MaskContent:
    """Reads a label map and checks it against a class list.

    Args:
        path: PNG, BMP or TIFF.
        num_classes: labels are 0..num_classes-1.
        ignore_label: value of pixels without a class.
        binary_is_meant: a map of nothing but 0 and 255 is a label map; otherwise it is taken for a binary mask, in
            which 255 means "object", and is a problem.
    """
    try:
        with Image.open(path) as image:
            mode, size = image.mode, (image.height, image.width)
            array = np.asarray(image)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return MaskContent(None, 0, {}, Problem("unreadable label", f"Mask {path} cannot be read: {error}."))
    if mode not in _LABEL_MODES:
        text = f"Mask {path} is a colour image ({mode}): save class numbers in one channel."
        return MaskContent(size, 8, {}, Problem("colour label", text))
    bits = {"1": 8, "L": 8, "P": 8, "I": 32}.get(mode, 16)
    if array.min(initial=0) < 0 or array.max(initial=0) > 65535:
        values, numbers = np.unique(array, return_counts=True)
    else:
        numbers = np.bincount(array.ravel())
        values = np.flatnonzero(numbers)
        numbers = numbers[values]
    counts = dict(zip(values.tolist(), numbers.tolist()))
    problem = _values_problem(path, set(counts), num_classes, ignore_label, binary_is_meant)
    return MaskContent(size, bits, counts, problem)


def _values_problem(
    path: Path, values: set[int], num_classes: int, ignore_label: int, binary_is_meant: bool
) -> Problem | None:
    if not binary_is_meant and values == {0, 255} and num_classes < 256:
        return Problem(
            "binary mask",
            f"Mask {path} holds only 0 and 255, like a binary mask: save class numbers (0 for the first line of "
            "classes.txt), or write 255 into ignore.txt if 255 does mean 'ignored'.",
        )
    unknown = sorted(value for value in values if value != ignore_label and not 0 <= value < num_classes)
    if unknown:
        listed = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        return Problem(
            "unknown id",
            f"Mask {path} holds the id {listed} but there are {num_classes} classes (0 to {num_classes - 1}) and "
            f"{ignore_label} is ignored: correct the mask, the class list, or (in a folder of your own) ignore.txt.",
        )
    return None
