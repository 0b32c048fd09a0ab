"""Calibrated confidence is the map of its knots, and orders pixels as before."""

import math

import numpy as np
import pytest
import torch

from maft.confidence import CalibratedConfidence

KNOTS, CHANCES = (0.0, 0.2, 0.5, 1.0), (0.01, 0.3, 0.31, 0.95)


def test_confidence_lies_on_lines_between_the_knots_and_rises():
    tempered = torch.linspace(0, 1, 1001).view(7, 143)
    found = CalibratedConfidence(0.5, KNOTS, CHANCES).of(tempered)
    assert found.dtype == torch.float32 and found.shape == tempered.shape
    assert (found.flatten().diff() > 0).all()
    np.testing.assert_allclose(found, np.interp(tempered, KNOTS, CHANCES), atol=1e-6)


def test_the_knots_of_nothing_change_nothing():
    tempered = torch.rand(1000)
    assert torch.equal(CalibratedConfidence(1, (0.0, 1.0), (0.0, 1.0)).of(tempered), tempered)


@pytest.mark.parametrize(
    ("temperature", "knots", "chances"),
    [
        (0, KNOTS, CHANCES),
        (math.nan, KNOTS, CHANCES),
        (1, KNOTS[1:], CHANCES[1:]),
        (1, KNOTS, CHANCES[1:]),
        (1, (), ()),
        (1, (0.0, 0.5, 0.5 + 1e-12, 1.0), CHANCES),
        (1, KNOTS, (0.1, 0.3, 0.3, 0.9)),
        (1, KNOTS, (0.1, 0.2, 0.3, 1.1)),
        (1, KNOTS, (0.1, math.nan, 0.3, 0.9)),
    ],
)
def test_numbers_that_are_no_rising_map(temperature, knots, chances):
    CalibratedConfidence(1, KNOTS, CHANCES).check()
    with pytest.raises(ValueError, match="its confidence"):
        CalibratedConfidence(temperature, knots, chances).check()
