"""Semantic score maps of an image that a model saw in several ways, made a few rows at a time.

The scores of all classes at the size of a large photograph are more than the memory, so nothing here ever holds a whole
map: what stays in memory are the masks as they were proposed, and of the output one strip.

Shape letters: Q proposals, C classes, (h, w) size at which the model saw the image, (H, W) size of the output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.layers.devices import sent

# Of one strip of scores at output size; a few tensors of this size exist at a time.
_STRIP_BYTES = 2**26
# The same where a processor works through all classes several times, which its cache is meant to hold.
_CACHED_BYTES = 2**23
# TextRegion's masks are SAM's logits up to here: once resized, what is above one counts as one.
_MOST_LOGIT = 3.0
# From so many classes on, the best one is looked for in groups of so many.
_MANY, _GROUP = 256, 32


def soft_masks(masks: Tensor, are_logits: bool) -> Tensor:
    """TextRegion's soft masks: logits cut to 0..3, values in [0, 1] as they are; resized, they count up to one."""
    return masks.clamp(0, _MOST_LOGIT) if are_logits else masks


def source_rows(length: int, target: int, rows: range, align_corners: bool = False) -> tuple[range, Tensor]:
    """Where rows of a bilinearly resized map come from.

    Args:
        length, target: rows of the whole map before and after.
        rows: those asked for of the resized map.

    Returns:
        the rows of the map that they need, and where each lies between them, (len(rows),) float32 counted from the
        first one. Numbers are rounded as ``torch.nn.functional.interpolate`` rounds them.
    """
    if length == target:
        return rows, torch.arange(len(rows), dtype=torch.float32)
    places = torch.arange(rows.start, rows.stop, dtype=torch.float32)
    if align_corners:
        places = places * torch.tensor((length - 1) / max(target - 1, 1), dtype=torch.float32)
    else:
        places = ((places + 0.5) * torch.tensor(length / target, dtype=torch.float32) - 0.5).clamp(min=0)
    first, last = int(places[0]), min(int(places[-1]) + 1, length - 1)
    return range(first, last + 1), places - first


def resized_rows(values: Tensor, places: Tensor, width: int, align_corners: bool = False) -> Tensor:
    """Rows of the bilinear resize of a map.

    Args:
        values: (N, n, w), the rows that `source_rows` names.
        places: (m,) where each new row lies between them.
        width: of the resized map.

    Returns:
        (N, m, width).
    """
    same = torch.equal(places, torch.arange(values.shape[1], dtype=places.dtype))
    # Of the fewer rows first: both ways are linear, and what lies between columns costs most.
    widened_first = len(places) > values.shape[1]
    if widened_first:
        values = _widened(values, width, align_corners)
    if not same:
        upper = places.long().clamp(max=values.shape[1] - 1)
        lower = (upper + 1).clamp(max=values.shape[1] - 1)
        share = sent((places - upper).to(values.dtype)[:, None], values.device)
        upper, lower = sent(upper, values.device), sent(lower, values.device)
        values = torch.lerp(values.index_select(1, upper), values.index_select(1, lower), share)
    return values if widened_first else _widened(values, width, align_corners)


def _widened(values: Tensor, width: int, align_corners: bool) -> Tensor:
    if values.shape[2] == width:
        return values
    if not len(values):
        return values.new_zeros(0, values.shape[1], width)
    return F.interpolate(values, width, mode="linear", align_corners=align_corners)


def row_strips(height: int, values: int, *, cached: bool = False) -> Iterator[range]:
    """Rows of an output, strip after strip, so many at a time as memory is meant for, and at least four.

    Args:
        values: float32 numbers that one row takes.
        cached: so many as the cache of a processor is meant for.
    """
    # Each strip computes anew the rows at its borders, of which thin ones would have nothing else.
    most = min(_STRIP_BYTES, _CACHED_BYTES) if cached else _STRIP_BYTES
    step = max(4, most // (4 * max(values, 1)))
    for start in range(0, height, step):
        yield range(start, min(start + step, height))


def output_strips(
    size: tuple[int, int], seen: Sequence[tuple[int, int]], values: int, *, cached: bool = False
) -> Iterator[range]:
    """`row_strips` of an output of ``size`` that is made of maps at the sizes ``seen``, ``values`` for each pixel."""
    # A map larger than the output needs several of its rows for one of the output's.
    widest = max([size[1], *(width * math.ceil(height / size[0]) for height, width in seen)])
    return row_strips(size[0], values * widest, cached=cached)


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows along a side begin: every ceil(window * (1 - overlap)) pixels, the last one at the side's end.

    A side that is no longer than the window has one.
    """
    if length <= window:
        return [0]
    # 100 * (1 - 0.7) is a hair above 30: a stride that should be whole is not rounded up for that.
    stride = max(1, math.ceil(window * (1 - overlap) - 1e-6))
    return [min(start, length - window) for start in range(0, length - window + stride, stride)]


@dataclass(frozen=True)
class Tile:
    """What a model says of one rectangle of an image.

    Attributes:
        scores: (Q, C) class probabilities, or logits with ``row_class``.
        masks: (Q, h', w') of any resolution, which span ``padded_size`` from the rectangle's first pixel on.
        padded_size: (height, width).
        top, left, height, width: the rectangle.
        are_logits: whether ``masks`` needs a sigmoid.
        align_corners: how masks are resized.
        cut: masks are 1 above this value and 0 elsewhere; 0 leaves them soft.
        row_class: where logits of texts are summed, the class of each; None where probabilities of classes are.
        elsewhere: (C, h, w) scores of the pixels that no mask shows, spanning the rectangle; None: zero.
    """

    scores: Tensor
    masks: Tensor
    padded_size: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    are_logits: bool
    align_corners: bool = False
    cut: float = 0.0
    row_class: Tensor | None = None
    elsewhere: Tensor | None = None

    def summing(self, logits: Tensor, row_class: Tensor, elsewhere: Tensor | None) -> Tile:
        """The same rectangle where `soft_masks` weigh logits (Q, T) of texts, without masks whose logits are zero."""
        kept = logits.any(-1)
        masks, scores = soft_masks(self.masks[kept], self.are_logits), logits[kept]
        return replace(self, scores=scores, masks=masks, are_logits=False, row_class=row_class, elsewhere=elsewhere)

    def mask_rows(self, rows: range) -> Tensor:
        """(Q, len(rows), width) masks of rows of the rectangle, still logits when ``are_logits``."""
        height, width = self.padded_size
        source, places = source_rows(self.masks.shape[1], height, rows, self.align_corners)
        values = self.masks[:, source.start : source.stop]
        return resized_rows(values, places, width, self.align_corners)[..., : self.width]

    def weights(self, masks: Tensor) -> Tensor:
        """What masks, as `mask_rows` gives them, weigh their scores with, of the same shape."""
        soft = masks.sigmoid() if self.are_logits else masks
        shown = (soft > self.cut).to(soft.dtype) if self.cut else soft
        return shown if self.row_class is None else shown.clamp(max=1)

    def combined(self, masks: Tensor, rows: range, size: tuple[int, int]) -> Tensor:
        """(C, len(rows), w) scores at rows of a map of the rectangle.

        Args:
            masks: (Q, len(rows), w) there, as `mask_rows` gives them.
            rows, size: which rows, and (h, w) of the whole map.
        """
        shown = self.weights(masks)
        scores = torch.einsum("qc,qhw->chw", self.scores, shown)
        if self.elsewhere is None:
            return scores
        source, places = source_rows(self.elsewhere.shape[1], size[0], rows)
        rest = resized_rows(self.elsewhere[:, source.start : source.stop], places, size[1])
        return torch.where((shown > 0).any(0), scores, rest)


@dataclass(frozen=True)
class View:
    """An image at one of the sizes at which a model saw it.

    Attributes:
        size: (h, w).
        exposures: each time it was seen: whether left and right were exchanged, and its parts, which cover it and may
            overlap: scores are averaged where they do.
        resize_before: of exposures in one part: masks are resized to the output before classes and masks are combined.
    """

    size: tuple[int, int]
    exposures: Sequence[tuple[bool, Sequence[Tile]]]
    resize_before: bool = False

    def rows(self, rows: range, size: tuple[int, int]) -> Tensor:
        """(C, len(rows), W), the sum over the exposures of the scores of rows of an output of ``size``."""
        source, places = source_rows(self.size[0], size[0], rows)
        resized = self.resize_before or self._masks_are_fewer(size)
        total: Tensor | None = None
        for flipped, tiles in self.exposures:
            if self.resize_before:
                (tile,) = tiles
                scores = tile.combined(resized_rows(tile.mask_rows(source), places, size[1]), rows, size)
            elif resized:
                (tile,) = tiles
                shown = resized_rows(tile.weights(tile.mask_rows(source)), places, size[1])
                scores = torch.einsum("qc,qhw->chw", tile.scores, shown)
            else:
                scores = self._averaged(tiles, source)
            scores = scores.flip(-1) if flipped else scores
            total = scores if total is None else total.add_(scores)
        assert total is not None, "an image was seen at least once"
        # Resizing is linear and the same from the left and from the right: once for all exposures is enough.
        return total if resized else resized_rows(total, places, size[1])

    def _masks_are_fewer(self, size: tuple[int, int]) -> bool:
        """Whether resizing what weighs the scores gives the same scores as resizing these, for less work."""
        if size == self.size or size[0] * size[1] > self.size[0] * self.size[1]:
            return False
        queries, classes = self.exposures[0][1][0].scores.shape
        return queries <= classes and all(len(tiles) == 1 and tiles[0].elsewhere is None for _, tiles in self.exposures)

    def _averaged(self, tiles: Sequence[Tile], rows: range) -> Tensor:
        """(C, len(rows), w) scores at the size of the view."""
        if len(tiles) == 1:
            return tiles[0].combined(tiles[0].mask_rows(rows), rows, self.size)
        first = tiles[0].scores
        total = first.new_zeros(first.shape[1], len(rows), self.size[1])
        count = first.new_zeros(len(rows), self.size[1])
        for tile in tiles:
            shared = range(max(rows.start, tile.top), min(rows.stop, tile.top + tile.height))
            if not shared:
                continue
            inner = range(shared.start - tile.top, shared.stop - tile.top)
            scores = tile.combined(tile.mask_rows(inner), inner, (tile.height, tile.width))
            here = slice(shared.start - rows.start, shared.stop - rows.start)
            there = slice(tile.left, tile.left + tile.width)
            total[:, here, there] += scores
            count[here, there] += 1
        return total.div_(count)


def averaged_strips(views: Sequence[View], size: tuple[int, int]) -> Iterator[tuple[range, Tensor]]:
    """The mean of the score maps of all exposures of all views, strip after strip from the top.

    Args:
        size: (H, W) of the output.

    Yields:
        rows of the output and their scores (C, len(rows), W).
    """
    scores = views[0].exposures[0][1][0].scores
    count = sum(len(view.exposures) for view in views)
    # A GPU would spend its time on starting many small ones.
    cached = scores.device.type == "cpu"
    for rows in output_strips(size, [view.size for view in views], max(scores.shape), cached=cached):
        total = views[0].rows(rows, size)
        for view in views[1:]:
            total += view.rows(rows, size)
        yield rows, total.div_(count) if count > 1 else total


def best_classes(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of (C, ...) scores at every pixel, and the first class that has it, as ``scores.max(dim=0)`` says.

    Of many classes the place of the largest costs a processor ten times the largest itself. So it is looked for in the
    group of classes that has it.
    """
    if len(scores) < _MANY:
        best, index = scores.max(dim=0)
        return best, index
    groups = len(scores) // _GROUP
    grouped = scores[: groups * _GROUP].unflatten(0, (groups, _GROUP))
    best, group = grouped.amax(dim=1).max(dim=0)
    members = grouped.gather(0, group.expand(1, _GROUP, *group.shape))[0]
    index = group * _GROUP + members.max(dim=0).indices
    if len(scores) % _GROUP:
        rest, place = scores[groups * _GROUP :].max(dim=0)
        best, index = torch.where(rest > best, rest, best), torch.where(rest > best, place + groups * _GROUP, index)
    return best, index
