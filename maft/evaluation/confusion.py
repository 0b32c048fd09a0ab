"""Confusion matrix of label maps and the semantic metrics that follow from it."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
import torch
from detectron2.utils import comm
from numpy.typing import NDArray
from torch import Tensor

_INT32 = torch.iinfo(torch.int32).max


class ConfusionMatrix:
    """Counts of (predicted, true) classes over all pixels, kept on the device of the predictions.

    Attributes:
        counts: (C + 1, C + 1) int64. Row is the prediction, column the ground truth; the last row is "nothing
            predicted", the last column "ignored".
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes + 1, num_classes + 1, dtype=torch.int64)

    def update(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Adds the pixels of one or more images.

        Args:
            prediction: any shape, integers; values outside 0..C-1 count as "nothing predicted".
            truth: same number of pixels, integers on any device; values outside 0..C-1 count as ignored.

        Returns:
            the counts of these pixels alone, like ``counts``.
        """
        size = self.num_classes + 1
        rows = self._inside(prediction)
        columns = self._inside(truth.to(prediction.device, non_blocking=True))
        places = rows.to(torch.int32 if size * size <= _INT32 else torch.int64).mul_(size).add_(columns)
        counts = torch.bincount(places, minlength=size * size).view(size, size)
        self.counts = self.counts.to(counts.device).add_(counts)
        return counts

    def _inside(self, labels: Tensor) -> Tensor:
        flat = labels.reshape(-1)
        flat = flat if flat.dtype in (torch.int32, torch.int64) else flat.long()
        # Without its sign, what is below zero is above any class: one bound for both.
        return flat.clamp(-1, self.num_classes).int().bitwise_and_(_INT32).clamp_(max=self.num_classes)


def sum_over_processes(table: Tensor) -> Tensor:
    """The sum of a table over all processes, on the CPU of each of them; has to be called by all."""
    return torch.stack(comm.all_gather(table.cpu())).sum(dim=0)


@dataclass(frozen=True)
class SemanticScores:
    """Per-class and mean scores of a confusion matrix, as fractions in 0..1.

    NaN stands for what is undefined: the IoU and accuracy of a class without ground truth, a mean over no class.

    Attributes:
        iou: (C,) intersection over union; NaN where the ground truth lacks the class.
        accuracy: (C,) share of a class's true pixels that were found.
        pixels: (C,) true pixels.
        predicted: (C,) pixels predicted as the class, ignored ones not counted.
        hits: (C,) true pixels that were predicted as their class.
    """

    iou: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    pixels: NDArray[np.float64]
    predicted: NDArray[np.float64]
    hits: NDArray[np.float64]

    @classmethod
    def of(cls, counts: Tensor) -> SemanticScores:
        """Scores of the (C + 1, C + 1) counts of a `ConfusionMatrix`."""
        matrix = counts.cpu().numpy().astype(np.float64)
        hits = matrix.diagonal()[:-1].copy()
        pixels = matrix[:, :-1].sum(axis=0)
        predicted = matrix[:-1, :-1].sum(axis=1)
        return cls.of_counts(pixels, predicted, hits)

    @classmethod
    def of_counts(
        cls, pixels: NDArray[np.float64], predicted: NDArray[np.float64], hits: NDArray[np.float64]
    ) -> SemanticScores:
        """Scores of what was counted of each class."""
        with np.errstate(divide="ignore", invalid="ignore"):
            accuracy = np.where(pixels > 0, hits / pixels, np.nan)
            iou = np.where(pixels > 0, hits / (pixels + predicted - hits), np.nan)
        return cls(iou, accuracy, pixels, predicted, hits)

    def only(self, classes: NDArray[np.bool_]) -> SemanticScores:
        """The scores of some classes, (C,) bool."""
        return SemanticScores(*(values[classes] for values in astuple(self)))

    def means(self) -> dict[str, float]:
        """The mean IoUs, mean accuracy of classes in the ground truth and share of true pixels found, as reported."""
        return {
            "mIoU": self.mean_iou(),
            "mIoU_or_predicted": self.mean_iou(count_predicted=True),
            # Of ZegFormer: one class without ground truth leaves it undefined.
            "mIoU_of_all": _ratio(self.iou.sum(), len(self.iou)),
            "mACC": _ratio(np.nansum(self.accuracy), (self.pixels > 0).sum()),
            "pACC": _ratio(self.hits.sum(), self.pixels.sum()),
        }

    def mean_iou(self, *, count_predicted: bool = False) -> float:
        """Mean IoU.

        Args:
            count_predicted: the denominator of Detectron2 up to v0.6, under which MAFT, MAFT+ and OVSeg published: a
                class that is predicted somewhere but absent from the ground truth counts with IoU 0. Otherwise, as
                Detectron2 does today, only classes in the ground truth count.
        """
        counted = (self.pixels > 0) | (self.predicted > 0) if count_predicted else self.pixels > 0
        return _ratio(np.nansum(self.iou), counted.sum())

    def frequency_weighted_iou(self) -> float:
        """IoU averaged with the classes' share of true pixels as weight."""
        return _ratio(np.nansum(self.iou * self.pixels), self.pixels.sum())


def harmonic_mean(first: float, second: float) -> float:
    """2ab / (a + b), 0 when both are 0, NaN when one is."""
    if first + second == 0:
        return 0.0
    return 2 * first * second / (first + second)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator) / float(denominator) if denominator else float("nan")
