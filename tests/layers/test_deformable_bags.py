import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from maft.layers import deformable_bags
from maft.layers.deformable_attention import deformable_attention_by_definition
from maft.layers.deformable_bags import weighted_bags
from maft.layers.feature_levels import FeatureLevels

SIZES = ((3, 5), (1, 1), (9, 11))
LEVELS = FeatureLevels.of(SIZES, torch.device("cpu"))


def inputs(batch=2, queries=13, dtype=torch.float64):
    values = torch.randn(batch, len(LEVELS.centres), 4, 6, dtype=dtype)
    locations = torch.rand(batch, queries, 4, 3, 5, 2, dtype=dtype) * 1.6 - 0.3
    weights = torch.rand(batch, queries, 4, 15, dtype=dtype).softmax(-1).view(batch, queries, 4, 3, 5)
    return [tensor.requires_grad_() for tensor in (values, locations, weights)]


def ours(values, locations, weights):
    return weighted_bags(values, SIZES, LEVELS.extent, locations, weights)


def by_definition(values, locations, weights):
    return deformable_attention_by_definition(values, LEVELS, locations, weights)


def assert_same_gradients(first, second, of):
    cotangent = torch.randn_like(first)
    expected = torch.autograd.grad(second, of, cotangent)
    for gradient, wanted in zip(torch.autograd.grad(first, of, cotangent), expected):
        torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("rows", [1, 4 * 4 * 15 * 5, 1 << 20])
def test_however_many_queries_are_computed_at_a_time_values_and_gradients_are_the_same(monkeypatch, rows):
    monkeypatch.setattr(deformable_bags, "_ROWS_ON_CPU", rows)
    problem = inputs()
    result, expected = ours(*problem), by_definition(*problem)
    torch.testing.assert_close(result, expected)
    assert_same_gradients(result, expected, problem)


def test_far_away_and_on_the_very_edge_of_the_border_nothing_is_read():
    values, locations, weights = inputs(batch=1, queries=6)
    width = torch.tensor([5.0, 1.0, 11.0], dtype=torch.float64)[:, None]
    edges = torch.stack([-0.5 / width, 1 + 0.5 / width, width * 1e30, -width * 1e30, width * torch.inf, -0.51 / width])
    with torch.no_grad():
        locations[0, :, :, :, :, 0] = edges[:, None]
    assert ours(values, locations, weights).abs().max() < 1e-12


def test_a_location_that_is_not_a_number_spoils_its_own_query_and_head_only():
    values, locations, weights = inputs(batch=1)
    expected = by_definition(values, locations, weights).view(13, 4, 6)
    with torch.no_grad():
        locations[0, 7, 2, 1, 3, 0] = torch.nan
    result = ours(values, locations, weights).view(13, 4, 6)
    assert result[7, 2].isnan().all()
    keep = torch.ones(13, 4, dtype=torch.bool)
    keep[7, 2] = False
    torch.testing.assert_close(result[keep], expected[keep])


def test_the_backward_pass_keeps_float32_under_autocast():
    problem = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        result = ours(*problem)
        gradients = torch.autograd.grad(result.sum(), problem)
    assert result.dtype == torch.float32
    for gradient, wanted in zip(gradients, torch.autograd.grad(by_definition(*problem).sum(), problem)):
        torch.testing.assert_close(gradient, wanted)


def test_values_in_half_precision_are_weighed_in_half_precision():
    problem = inputs(dtype=torch.float32)
    half = problem[0].detach().bfloat16().requires_grad_()
    result = ours(half, *problem[1:])
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), by_definition(*problem), atol=0.03, rtol=0.03)
    assert torch.autograd.grad(result.sum(), half)[0].dtype == torch.bfloat16


def test_compiles_into_one_graph_with_its_gradients():
    problem = inputs()
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    result, expected = compiled(*problem), by_definition(*problem)
    torch.testing.assert_close(result, expected)
    assert_same_gradients(result, expected, problem)


def test_runs_on_a_device_that_is_only_imagined():
    with FakeTensorMode():
        values, locations, weights = (torch.empty(t.shape, device="cuda") for t in inputs())
        extent = torch.empty(3, 2, device="cuda")
        result = weighted_bags(values, SIZES, extent, locations, weights)
    assert result.shape == (2, 13, 24) and result.device.type == "cuda"
