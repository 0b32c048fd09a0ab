"""Which masks of a whole index words ask for, best first: pure functions.

Shape letters: N masks, C words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from maft.errors import UserError, shown
from maft.index.search import ENGINES

# Intersection over union from which on two masks of one image show the same object, and the share of a mask within
# another one of the same word.
SAME_OBJECT, WITHIN = 0.5, 0.8
# So many masks of a ranking become Python numbers at a time.
_BLOCK = 4096
# A vector index is asked for so many times the masks that are wanted, as its order is not that of the model.
_CANDIDATES, _LEAST_CANDIDATES = 20, 1000


@dataclass(frozen=True)
class FoundMask:
    """A mask that was asked for.

    Attributes:
        image: number of its image in the index.
        file: path of the image, as it was indexed.
        mask: its number among the masks of the image.
        word: the likeliest of the words that were asked for; empty of masks that are like another one.
        score: in 0..1 how likely it shows any of the words; of masks that are like another one the cosine, in -1..1.
        area: pixels of the image inside it.
        box: (x0, y0, x1, y1) in pixels of the image, the right and lower ends exclusive.
        segmentation: its run lengths at the size of the image, see `maft.exports.coco.encoded_masks`.
    """

    image: int
    file: str
    mask: int
    word: str
    score: float
    area: int
    box: tuple[int, int, int, int]
    segmentation: dict[str, Any]


def any_of(probabilities: Tensor, asked: Tensor, against: Tensor) -> tuple[Tensor, Tensor]:
    """How likely each mask shows any of the words that are asked for.

    Args:
        probabilities: (N, C) or (N, C + 1) joint class probabilities, void last.
        asked: (A,) int64, columns of the words that are asked for.
        against: (n,) int64, columns of the words that are not; n may be 0.

    Returns:
        scores (N,), the sum over the words asked for, minus infinity where one that is not is likelier than each of
        them; and which of the words that are asked for is the likeliest, (N,) int64 in 0..A - 1.
    """
    wanted = probabilities[:, asked]
    best, word = wanted.max(dim=1)
    scores = wanted.sum(dim=1)
    if len(against):
        scores = scores.where(best >= probabilities[:, against].amax(dim=1), -torch.inf)
    return scores, word


def different_objects(
    ranked: Iterable[int], of: Callable[[int], tuple[int, int]], runs_of: Callable[[int], dict[str, Any]]
) -> Iterator[int]:
    """The masks of a ranking without those that show the object of a better one of their image.

    That is so where they overlap with an intersection over union above one half, or where four fifths of one lie within
    a better one of the same word, as a part of it or what is left of it.

    Args:
        ranked: masks, best first.
        of: the image of a mask, and its word.
        runs_of: run lengths of a mask; those of one image are of one size.
    """
    shown: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for mask in ranked:
        image, word = of(mask)
        code, before = runs_of(mask), shown.setdefault(image, [])
        if before:
            codes = [other for _, other in before]
            # Against a "crowd" the intersection is divided by the area of the mask alone.
            overlap = coco_mask.iou([code], codes, [0] * len(codes))[0]
            within = coco_mask.iou([code], codes, [1] * len(codes))[0]
            same_word = np.array([other == word for other, _ in before])
            if ((overlap > SAME_OBJECT) | ((within >= WITHIN) & same_word)).any():
                continue
        before.append((word, code))
        yield mask


def best_first(scores: Tensor) -> Iterator[int]:
    """The places of (N,) scores, the best first and of equal ones the first; minus infinity takes no part."""
    order = scores.argsort(descending=True, stable=True)[: int((scores > -torch.inf).sum())]
    for block in order.split(_BLOCK):
        yield from block.tolist()


def candidates(top: int) -> int:
    """How many masks near each embedding are compared by the model's own scores, where ``top`` are wanted."""
    return max(_CANDIDATES * top, _LEAST_CANDIDATES)


def check_asked(top: int, engine: str) -> None:
    """Raises `UserError` unless a question asks for at least one mask, of an engine that there is."""
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise UserError(f"The number of masks to be found is {shown(top)}: give a whole number of at least 1.")
    if engine not in ENGINES:
        raise UserError(f"There is no search engine {shown(engine)}: choose {' or '.join(ENGINES)}.")
