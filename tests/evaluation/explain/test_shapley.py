"""Shares of a sum among stages that act together: the properties that define them, and Shapley's sum over orders."""

from itertools import permutations

import torch
from hypothesis import given
from hypothesis import strategies as st

from maft.evaluation.explain.shapley import COALITIONS, STAGES, members, shapley

VALUES = st.lists(st.floats(0, 100), min_size=COALITIONS, max_size=COALITIONS).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)
STAGE = st.integers(0, len(STAGES) - 1)


def by_definition(values):
    """The mean over all orders of what each stage adds to those before it."""
    orders = list(permutations(range(len(STAGES))))
    parts = torch.zeros(len(STAGES), dtype=torch.float64)
    for order in orders:
        coalition = 0
        for stage in order:
            parts[stage] += values[coalition | 1 << stage] - values[coalition]
            coalition |= 1 << stage
    return parts / len(orders)


def test_coalition_numbers_are_bits_of_the_stages():
    assert members().shape == (32, 5)
    assert members()[0b10010].tolist() == [False, True, False, False, True]


@given(VALUES)
def test_the_parts_are_the_mean_over_all_orders(values):
    assert torch.allclose(shapley(values), by_definition(values), atol=1e-9)


@given(VALUES)
def test_the_parts_add_up_to_what_all_stages_gain(values):
    assert abs(float(shapley(values).sum() - (values[-1] - values[0]))) < 1e-9


@given(VALUES, STAGE)
def test_a_stage_that_changes_nothing_has_a_part_of_exactly_zero(values, stage):
    without = torch.arange(COALITIONS) & ~(1 << stage)
    assert shapley(values[without])[stage] == 0


@given(VALUES, STAGE, STAGE)
def test_stages_that_can_be_exchanged_have_the_same_part(values, one, other):
    inside = members()
    swapped = inside.clone()
    swapped[:, [one, other]] = inside[:, [other, one]]
    mirror = (swapped * 2 ** torch.arange(len(STAGES))).sum(dim=1)
    parts = shapley(values + values[mirror])
    assert torch.allclose(parts[one], parts[other], atol=1e-9)


def test_many_values_are_shared_out_at_once():
    torch.manual_seed(0)
    values = torch.rand(COALITIONS, 3, 2)
    parts = shapley(values)
    assert parts.shape == (5, 3, 2) and parts.dtype == torch.float64
    assert torch.allclose(parts[:, 2, 1], by_definition(values[:, 2, 1].double()))
