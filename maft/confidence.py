"""Confidence that is a probability, by what was measured on held-out pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CalibratedConfidence:
    """Confidence as the chance that a label is right; it rises with that of before and changes no label.

    With s, the `maft.inference.tempered_confidence` at T, it is the beta calibration of Kull, Silva Filho and Flach
    (2017, equation 4), which may bend at both ends, as a temperature cannot:

        1 / (1 + exp(-(a ln s - b ln(1 - s) + c))), and 0 where s is 0.

    Attributes:
        temperature: T, above 0.
        a, b: above 0, so that no two confidences become one.
        c: finite.
    """

    temperature: float
    a: float
    b: float
    c: float

    def of(self, tempered: Tensor) -> Tensor:
        """(...) float32 in 0..1.

        Args:
            tempered: s, (...) float32 in 0..1.
        """
        # Half the step below 1 stands for 1, whose logarithm is infinite.
        rest = (1 - tempered).clamp(min=2.0**-25)
        odds = self.a * tempered.clamp(min=torch.finfo(tempered.dtype).tiny).log() - self.b * rest.log() + self.c
        return odds.sigmoid() * (tempered > 0)

    def check(self) -> None:
        """Raises ValueError where these are no numbers of such a map."""
        rising = min(self.temperature, self.a, self.b) > 0
        if not rising or not all(map(math.isfinite, (self.temperature, self.a, self.b, self.c))):
            raise ValueError("its confidence does not rise")
