"""Scores as functions of sums over images, for many weightings of the images at once."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from maft.evaluation.counts import Counts

Floats = NDArray[np.float64]
PANOPTIC, SEMANTIC = "panoptic_seg", "sem_seg"


class ImageSums(ABC):
    """What is added up over images, and the scores of such a sum.

    Attributes:
        parts: (images, K C) sparse float64: K numbers of each of C classes, of each image.
        task: which of the results it is.
        names: M names of scores: means first, the first of them the main one, and then the C classes.
        means: how many are means.
    """

    task: str

    def __init__(self, parts: sparse.csr_array, names: list[str], means: int) -> None:
        self.parts, self.names, self.means = parts, names, means

    def __len__(self) -> int:
        return self.parts.shape[0]

    def total(self) -> Floats:
        """(1, K C) sum over all images."""
        return np.asarray(self.parts.sum(axis=0)).reshape(1, -1)

    @abstractmethod
    def scores(self, sums: Floats) -> Floats:
        """(R, K C) sums -> (R, M) scores in 0..1, NaN where one is not defined, see `SemanticScores`."""


class SemanticSums(ImageSums):
    """Pixels that are right, true and predicted of each class; IoU and its means, and the share of pixels right."""

    task = SEMANTIC

    def __init__(self, counts: Counts) -> None:
        offered, seen = counts.offered, counts.of.seen
        classes, table = len(offered), {name: values.numpy() for name, values in counts.tables[SEMANTIC].items()}
        image, predicted, true = table["image"], table["predicted"], table["true"]
        known = true < classes
        part = known & (predicted < classes)
        hit = part & (predicted == true)
        rows = np.concatenate([image[hit], image[known], image[part]])
        columns = np.concatenate([true[hit], true[known] + classes, predicted[part] + 2 * classes])
        values = np.concatenate([table["count"][which] for which in (hit, known, part)]).astype(np.float64)
        parts = sparse.coo_array((values, (rows, columns)), shape=(len(counts.of.files), 3 * classes)).tocsr()
        self.seen = None
        if counts.of.protocol == "generalized" and seen is not None and not all(seen):
            self.seen = np.array(seen, dtype=bool)
        split = [] if self.seen is None else ["seen_mIoU", "unseen_mIoU", "harmonic_mIoU"]
        names = ["mIoU", *split, "pACC"]
        super().__init__(parts, [*names, *(f"IoU-{counts.of.class_names[label]}" for label in offered)], len(names))

    def scores(self, sums: Floats) -> Floats:
        hits, pixels, predicted = np.split(sums, 3, axis=1)
        iou = _ratio(hits, np.where(pixels > 0, pixels + predicted - hits, 0))
        means = [_mean(iou)]
        if self.seen is not None:
            seen, unseen = _mean(iou[:, self.seen]), _mean(iou[:, ~self.seen])
            # Where both are 0, so is the harmonic mean; where one is not defined, neither is it.
            both = _ratio(2 * seen * unseen, seen + unseen)
            means += [seen, unseen, np.where(seen + unseen == 0, 0, both)]
        return np.column_stack([*means, _ratio(hits.sum(1), pixels.sum(1)), iou])


class PanopticSums(ImageSums):
    """Sums of matched IoUs, hits and both kinds of mistakes of each class; panoptic quality and its means."""

    task = PANOPTIC

    def __init__(self, counts: Counts) -> None:
        table = {name: values.numpy() for name, values in counts.tables[PANOPTIC].items()}
        names = ("iou", "true_positives", "false_positives", "false_negatives")
        classes = len(counts.of.class_names)
        rows = np.tile(table["image"], len(names))
        columns = np.concatenate([table["class"] + place * classes for place in range(len(names))])
        values = np.concatenate([table[name].astype(np.float64) for name in names])
        parts = sparse.coo_array((values, (rows, columns)), shape=(len(counts.of.files), len(names) * classes))
        self.things = np.array(counts.of.things, dtype=bool)
        super().__init__(parts.tocsr(), ["PQ", "PQ_th", "PQ_st", *(f"PQ-{name}" for name in counts.of.class_names)], 3)

    def scores(self, sums: Floats) -> Floats:
        iou, hits, false_positives, false_negatives = np.split(sums, 4, axis=1)
        quality = _ratio(iou, hits + (false_positives + false_negatives) / 2)
        parts = [np.ones_like(self.things), self.things, ~self.things]
        return np.column_stack([*(_mean(quality[:, part]) for part in parts), quality])


def image_sums(counts: Counts) -> list[ImageSums]:
    """Those of the semantic and of the panoptic results, where there are such."""
    kinds: list[type[SemanticSums] | type[PanopticSums]] = [SemanticSums, PanopticSums]
    return [kind(counts) for kind in kinds if kind.task in counts.tables]


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def _mean(values: Floats) -> Floats:
    """(R, n) -> (R,) mean of what is defined."""
    return _ratio(np.nansum(values, axis=1), np.isfinite(values).sum(axis=1).astype(np.float64))
