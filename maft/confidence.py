"""Confidence that is a probability, by what was measured on held-out pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class CalibratedConfidence:
    """Confidence as the chance that a label is right; it rises with that of before and changes no label.

    The `maft.inference.tempered_confidence` at T, mapped by lines between knots.

    Attributes:
        temperature: T, above 0.
        knots: tempered confidences, ascending from 0 to 1.
        chances: what becomes of each, in 0..1 and ascending, so that no two confidences become one.
    """

    temperature: float
    knots: tuple[float, ...]
    chances: tuple[float, ...]

    def of(self, tempered: Tensor) -> Tensor:
        """(...) float32 in 0..1.

        Args:
            tempered: (...) float32 in 0..1.
        """
        knots, chances = (torch.tensor(part, device=tempered.device) for part in (self.knots, self.chances))
        right = torch.searchsorted(knots, tempered.contiguous()).clamp(1, len(knots) - 1)
        share = (tempered - knots[right - 1]) / (knots[right] - knots[right - 1])
        return torch.lerp(chances[right - 1], chances[right], share)

    def check(self) -> None:
        """Raises ValueError where these are no numbers of such a map."""
        knots, chances = np.array(self.knots, np.float32), np.array(self.chances)
        if len(knots) != len(chances) or len(knots) < 2 or (knots[0], knots[-1]) != (0, 1):
            raise ValueError("its confidence is not mapped from 0 to 1")
        rising = (np.diff(knots) > 0).all() and (np.diff(chances) > 0).all() and chances[0] >= 0 and chances[-1] <= 1
        if not rising or not 0 < self.temperature < math.inf:
            raise ValueError("its confidence does not rise")
