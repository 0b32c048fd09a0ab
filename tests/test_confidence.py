"""Calibrated confidence against its formula, and that it orders pixels as before."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maft.confidence import CalibratedConfidence

slopes = st.floats(0.05, 2)


@given(slopes, slopes, st.floats(-1, 1))
def test_confidence_rises_and_is_that_of_the_formula(a, b, c):
    tempered = torch.linspace(0, 0.99, 100)
    found = CalibratedConfidence(0.5, a, b, c).of(tempered)
    assert found[0] == 0 and (found.diff() > 0).all() and found.dtype == torch.float32
    s = 0.37
    assert float(found[37]) == pytest.approx(1 / (1 + math.exp(-c) * (1 - s) ** b / s**a), rel=1e-4)


def test_a_beta_calibration_of_ones_changes_nothing():
    tempered = torch.rand(1000)
    torch.testing.assert_close(CalibratedConfidence(1, 1.0, 1.0, 0.0).of(tempered), tempered)


def test_the_ends_have_a_finite_confidence():
    found = CalibratedConfidence(1, 0.5, 0.3, 0.0).of(torch.tensor([0.0, 1e-38, 1 - 2**-24, 1.0]))
    assert found[0] == 0 and found[1] > 0 and found[2] < found[3] < 1


@pytest.mark.parametrize(
    "numbers", [(0, 1, 1, 0), (1, 0, 1, 0), (1, 1, -1, 0), (1, 1, 1, math.inf), (math.nan, 1, 1, 0)]
)
def test_numbers_under_which_confidence_does_not_rise(numbers):
    CalibratedConfidence(1, 1, 1, 0).check()
    with pytest.raises(ValueError, match="does not rise"):
        CalibratedConfidence(*numbers).check()
