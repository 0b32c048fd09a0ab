"""Measures on held-out pictures what a calibration is worth.

Calibration error, IoU and the share of pixels are taken from pixels on a grid (`grid`); which words are
answered, and thus the risk curves, from all pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maft.calibration import GROUPS, RiskCurve
from maft.confidence import CalibratedConfidence
from maft.evaluation.calibrate_confidence import Judged, fit_confidence
from maft.evaluation.confusion import ConfusionMatrix, SemanticScores

BINS = 15
# Points of the grid on a side of a picture, at most.
_POINTS = 128
# Parts of the pictures of which each is given the confidence that is fitted to the others.
_PARTS = 5


def grid(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of a picture of (height, width), at most 128 of each, as even as can be."""
    rows, columns = (((torch.arange(n := min(side, _POINTS)) + 0.5) * side / n).long() for side in size)
    return rows, columns


@dataclass(frozen=True, eq=False)
class Observed:
    """What a model answered of one picture.

    Attributes:
        highest: (C,) float32, the highest of each word's pixels that thresholds are compared with, -1 where it has
            none.
        absent: (C,) bool, the words that the annotation lacks.
        labels, truth: (n,) int64 of the pixels on the grid; -1 for no answer and for pixels that are not annotated.
        confidence: (n,) float32 of the same pixels, as the model gives it.
        compared: (n,) float32 of the same pixels, what thresholds are compared with: the tempered confidence, or the
            calibrated one after `calibrated_by`.
    """

    highest: NDArray[np.float32]
    absent: NDArray[np.bool_]
    labels: Tensor
    truth: Tensor
    confidence: Tensor
    compared: Tensor

    @classmethod
    def of(cls, labels: Tensor, confidence: Tensor, tempered: Tensor, truth: Tensor, words: int) -> Observed:
        """Of an answer and its annotation, all (H, W), with -1 for none."""
        highest = torch.full((words + 1,), -1.0, device=labels.device)
        highest.scatter_reduce_(0, (labels + 1).flatten(), tempered.flatten(), "amax")
        present = torch.bincount((truth + 1).flatten().long(), minlength=words + 1)[1:] > 0
        rows, columns = grid((labels.shape[0], labels.shape[1]))
        taken = [part.cpu()[rows[:, None], columns].flatten() for part in (labels, truth, confidence, tempered)]
        return cls(
            highest[1:].cpu().numpy(), ~present.cpu().numpy(), taken[0], taken[1].long(), taken[2], taken[3]
        )  # fmt: skip

    def calibrated_by(self, confidence: CalibratedConfidence) -> Observed:
        """The same with the calibrated confidence in the place of the tempered one."""
        highest = confidence.of(torch.from_numpy(self.highest)).numpy()
        return replace(
            self,
            highest=np.where(self.highest < 0, self.highest, highest),
            compared=confidence.of(self.compared),
        )

    def judged(self) -> Judged:
        """The answered, annotated pixels with what thresholds are compared with."""
        used = (self.labels >= 0) & (self.truth >= 0)
        return self.compared[used], (self.labels == self.truth)[used]


def cross_calibrated(temperature: float, known: Judged, pictures: Sequence[Observed]) -> list[Observed]:
    """Pictures as confidence that is fitted to the others calibrates them, a fifth of them at a time.

    Args:
        known: further answers to fit to.
        pictures: with the tempered confidence.
    """
    found = []
    for part in range(min(_PARTS, len(pictures))):
        others = [one.judged() for place, one in enumerate(pictures) if place % _PARTS != part]
        confidence = fit_confidence(temperature, [known, *others])
        found += [one.calibrated_by(confidence) for one in pictures[part::_PARTS]]
    return found


def calibration_error(pictures: Sequence[Observed], *, calibrated: bool) -> float:
    """Expected calibration error of the confidence of answered, annotated pixels: 15 bins of equal width.

    Args:
        calibrated: of what thresholds are compared with, instead of what the model gives.
    """
    sure, right = [], []
    for one in pictures:
        used = (one.labels >= 0) & (one.truth >= 0)
        sure.append((one.compared if calibrated else one.confidence)[used].double())
        right.append((one.labels == one.truth)[used].double())
    values, hits = torch.cat(sure), torch.cat(right)
    place = (values * BINS).long().clamp(max=BINS - 1)
    gaps = torch.bincount(place, values - hits, minlength=BINS)
    return float(gaps.abs().sum() / max(len(values), 1))


def risk_curves(pictures: Sequence[Observed], seen: NDArray[np.bool_]) -> dict[str, RiskCurve]:
    """The risk curve of each group of words that some of these pictures lack.

    Args:
        seen: (C,), words of the training vocabulary.
    """
    curves = {}
    for group, members in zip(GROUPS, (seen, ~seen), strict=True):
        highest = [one.highest[absent] for one in pictures if (absent := one.absent & members).any()]
        if highest:
            curves[group] = RiskCurve.of(highest)
    return curves


@dataclass(frozen=True)
class GroupMeasured:
    """What thresholds did to one group of words on pictures that they do not come from.

    Attributes:
        pictures: those that had absent words of the group.
        false_alarms: mean share of a picture's absent words that were answered, which alpha bounds.
        deviation: standard deviation of that share over the pictures.
        pixels: share of all pixels that absent words of the group were given, which nothing bounds.
        before, after: mIoU over the group's classes that occur, without and with the thresholds.
    """

    pictures: int
    false_alarms: float
    deviation: float
    pixels: float
    before: float
    after: float


def measured(
    parts: Sequence[tuple[Sequence[Observed], Sequence[float]]], seen: NDArray[np.bool_]
) -> dict[str, GroupMeasured]:
    """What thresholds do, by group of words; a group that no picture lacks words of is left out.

    Args:
        parts: pictures, and the threshold of each word for them.
        seen: (C,), words of the training vocabulary.
    """
    before, after = ConfusionMatrix(len(seen)), ConfusionMatrix(len(seen))
    losses: dict[str, list[float]] = {group: [] for group in GROUPS}
    alarms, pixels = np.zeros(len(seen)), 0
    for pictures, thresholds in parts:
        least = np.array([*thresholds, 0.0], dtype=np.float32)
        for one in pictures:
            kept = one.labels.masked_fill(one.compared < torch.from_numpy(least)[one.labels], -1)
            before.update(one.labels, one.truth)
            after.update(kept, one.truth)
            answered = one.highest >= least[:-1]
            for group, members in zip(GROUPS, (seen, ~seen), strict=True):
                if (absent := one.absent & members).any():
                    losses[group].append(float(answered[absent].mean()))
            alarms += one.absent * np.bincount(kept.numpy() + 1, minlength=len(seen) + 1)[1:]
            pixels += len(kept)
    scores = [SemanticScores.of(matrix.counts) for matrix in (before, after)]
    return {
        group: GroupMeasured(
            len(found),
            float(np.mean(found)),
            float(np.std(found)),
            float(alarms[members].sum() / pixels),
            *(one.only(members).mean_iou() for one in scores),
        )
        for group, members in zip(GROUPS, (seen, ~seen), strict=True)
        if (found := losses[group])
    }
