"""Fits confidence to how often a model is right on held-out pictures: a temperature, then a beta calibration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor

from maft.confidence import CalibratedConfidence
from maft.errors import UserError
from maft.inference import tempered_confidence

# Where the likelihood of the temperature is searched.
_TEMPERATURES = (0.02, 50.0)
# Likewise of a and b, so that confidence rises, and of c.
_SLOPES, _OFFSETS = (0.01, 100.0), (-100.0, 100.0)

# The scores (C, n) of all classes at some pixels of a picture, their labels (n,) and true classes (n,), -1 for none.
Sample = tuple[Tensor, Tensor, Tensor]


def fit_confidence(samples: Iterable[Sample]) -> CalibratedConfidence:
    """The confidence that is likeliest to be the chance that an answer is right.

    The temperature is fitted first, and the rest to what it gives.

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
    right = torch.cat([hits for *_, hits in counted]).double()
    temperature = _temperature([(scores, labels) for scores, labels, _ in counted], right)
    tempered = torch.cat([tempered_confidence(scores, labels, temperature) for scores, labels, _ in counted])
    return CalibratedConfidence(temperature, *_beta(tempered.double(), right))


def _temperature(answered: Sequence[tuple[Tensor, Tensor]], right: Tensor) -> float:
    def loss(log_temperature: float) -> float:
        found = [tempered_confidence(scores, labels, math.exp(log_temperature)) for scores, labels in answered]
        sure = torch.cat(found).double().clamp(1e-6, 1 - 1e-6)
        return -float((right * sure.log() + (1 - right) * (1 - sure).log()).mean())

    lowest, highest = map(math.log, _TEMPERATURES)
    return math.exp(minimize_scalar(loss, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-3}).x)


def _beta(tempered: Tensor, right: Tensor) -> tuple[float, float, float]:
    """a, b and c of `CalibratedConfidence` for confidences (n,) and whether each is right (n,), both float64."""
    rest = (1 - tempered).clamp(min=2.0**-25)
    features = torch.stack(
        [tempered.clamp(min=torch.finfo(torch.float32).tiny).log(), -rest.log(), torch.ones_like(rest)]
    )
    # Platt (1999), equation 2.2.1: where all are right, no finite number would be likeliest.
    hits = right.sum()
    target = torch.where(right > 0, (hits + 1) / (hits + 2), 1 / (len(right) - hits + 2))

    def loss(numbers: Sequence[float]) -> tuple[float, list[float]]:
        odds = torch.as_tensor(numbers, dtype=torch.float64) @ features
        gradient = features @ (odds.sigmoid() - target) / len(target)
        value = torch.nn.functional.binary_cross_entropy_with_logits(odds, target)
        return float(value), gradient.tolist()

    bounds, exact = (_SLOPES, _SLOPES, _OFFSETS), {"gtol": 1e-9, "ftol": 1e-13}
    found = minimize(loss, (1.0, 1.0, 0.0), jac=True, method="L-BFGS-B", bounds=bounds, options=exact)
    a, b, c = found.x.tolist()
    return a, b, c
