"""Fits confidence to how often a model is right on held-out pictures: a temperature, then isotonic regression."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize_scalar
from torch import Tensor

from maft.confidence import CalibratedConfidence
from maft.errors import UserError
from maft.inference import tempered_confidence

# Where the likelihood of the temperature is searched.
_TEMPERATURES = (0.02, 50.0)
# How much of the way to its neighbours a block of isotonic regression rises.
_RISE = 0.1
# Chances of blocks are told apart so far.
_STEP = 1e-6

# The scores (C, n) of all classes at some pixels of a picture, their labels (n,) and true classes (n,), -1 for none.
Sample = tuple[Tensor, Tensor, Tensor]
# Tempered confidences (n,) float32 of answers and whether each is right, (n,) bool.
Judged = tuple[Tensor, Tensor]


def fit_temperature(samples: Iterable[Sample]) -> tuple[float, Judged]:
    """The temperature with which confidence is likeliest to be the chance that an answer is right.

    Returns:
        the temperature, and what it makes of the answers that it was fitted to.

    Raises:
        UserError: no pixel has both a label and an annotation.
    """
    counted = []
    for scores, labels, truth in samples:
        used = (labels >= 0) & (truth >= 0)
        if used.any():
            counted.append((scores[:, used], labels[used], (labels == truth)[used]))
    if not counted:
        raise UserError("No annotated pixel has an answer, so that no temperature can be fitted: give other images.")
    right = torch.cat([hits for *_, hits in counted])
    temperature = _temperature([(scores, labels) for scores, labels, _ in counted], right.double())
    tempered = torch.cat([tempered_confidence(scores, labels, temperature) for scores, labels, _ in counted])
    return temperature, (tempered, right)


def fit_confidence(temperature: float, judged: Sequence[Judged]) -> CalibratedConfidence:
    """The confidence that is likeliest to be the chance that an answer is right.

    Args:
        temperature: see `fit_temperature`.
        judged: answers under it, at least one in all.
    """
    tempered, right = (torch.cat(parts).double().numpy() for parts in zip(*judged, strict=True))
    return CalibratedConfidence(temperature, *_isotonic(tempered, right))


def _temperature(answered: Sequence[tuple[Tensor, Tensor]], right: Tensor) -> float:
    def loss(log_temperature: float) -> float:
        found = [tempered_confidence(scores, labels, math.exp(log_temperature)) for scores, labels in answered]
        sure = torch.cat(found).double().clamp(1e-6, 1 - 1e-6)
        return -float((right * sure.log() + (1 - right) * (1 - sure).log()).mean())

    lowest, highest = map(math.log, _TEMPERATURES)
    return math.exp(minimize_scalar(loss, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-3}).x)


def _isotonic(tempered: NDArray[np.float64], right: NDArray[np.float64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots and chances of confidences (n,) and whether each is right (n,), by isotonic regression.

    Zadrozny and Elkan (2002): the rising function with the least squared error is constant in blocks. Here each block
    rises by a tenth of the way to its neighbours, so that confidences stay apart.
    """
    values, place, pixels = np.unique(tempered, return_inverse=True, return_counts=True)
    # Platt (1999), section 2.2: where all are right, a chance of 1 says more than so many pixels can.
    hits, misses = right.sum(), (1 - right).sum()
    lowest, highest = 1 / (misses + 2), (hits + 1) / (hits + 2)
    shares = lowest + (highest - lowest) * np.bincount(place, right) / pixels
    rising = isotonic_regression(shares, weights=pixels).x
    # Blocks that differ by rounding alone are one.
    chances, first = np.unique(rising.clip(_STEP, 1 - _STEP).round(6), return_index=True)
    last = np.append(first[1:], len(rising)) - 1
    gaps = np.diff([0, *chances, 1])
    ends = np.stack([values[first], values[last]], axis=1).ravel()
    levels = np.stack([chances - _RISE * gaps[:-1], chances + _RISE * gaps[1:]], axis=1).ravel()
    # A block of one value has one knot.
    knots, kept = np.unique([0, *ends, 1], return_index=True)
    return tuple(knots.tolist()), tuple(np.array([0, *levels, 1])[kept].tolist())
