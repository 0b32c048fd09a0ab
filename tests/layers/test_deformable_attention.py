import pytest
import torch

from maft.layers.deformable_attention import (
    DeformableAttention,
    deformable_attention,
    deformable_attention_by_definition,
)
from maft.layers.feature_levels import FeatureLevels

SIZES = ((3, 5), (7, 4), (9, 11))


@pytest.fixture
def problem():
    tokens = sum(h * w for h, w in SIZES)
    values = torch.randn(2, tokens, 4, 6, dtype=torch.float64)
    # A third of the locations lie outside the maps, where values are zero.
    locations = torch.rand(2, 13, 4, 3, 5, 2, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(2, 13, 4, 15, dtype=torch.float64).softmax(-1).view(2, 13, 4, 3, 5)
    return [tensor.requires_grad_() for tensor in (values, locations, weights)]


def test_equals_grid_sample_in_value_and_gradient(problem):
    values, locations, weights = problem
    levels = FeatureLevels.of(SIZES, torch.device("cpu"))
    ours = deformable_attention(values, levels, locations, weights)
    theirs = deformable_attention_by_definition(values, levels, locations, weights)
    torch.testing.assert_close(ours, theirs)
    cotangent = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, problem, cotangent), torch.autograd.grad(theirs, problem, cotangent)):
        torch.testing.assert_close(a, b)


def test_initial_offsets_reach_out_in_one_direction_per_head():
    module = DeformableAttention(16, num_heads=4, num_levels=2, num_points=3)
    offsets = module.sampling_offsets.bias.view(4, 2, 3, 2)
    right, down = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    torch.testing.assert_close(offsets[0, 1], right * torch.arange(1, 4)[:, None], atol=1e-6, rtol=0)
    torch.testing.assert_close(offsets[1, 0], down * torch.arange(1, 4)[:, None], atol=1e-6, rtol=0)


def test_traces_into_one_graph():
    module = DeformableAttention(16, num_heads=4, num_levels=3, num_points=2)
    tokens = torch.randn(2, sum(h * w for h, w in SIZES), 16)

    def run(x):
        return module(x, x, FeatureLevels.of(SIZES, x.device))

    compiled = torch.compile(run, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens), run(tokens))


@pytest.mark.gpu
def test_same_numbers_on_the_gpu(problem):
    levels, cuda = FeatureLevels.of(SIZES, torch.device("cpu")), torch.device("cuda")
    on_gpu = [tensor.detach().to(cuda).requires_grad_() for tensor in problem]
    ours = deformable_attention(on_gpu[0], FeatureLevels.of(SIZES, cuda), *on_gpu[1:])
    expected = deformable_attention(problem[0], levels, *problem[1:])
    torch.testing.assert_close(ours.cpu(), expected)
    gradients = torch.autograd.grad(ours.sum(), on_gpu)
    for a, b in zip(gradients, torch.autograd.grad(expected.sum(), problem)):
        torch.testing.assert_close(a.cpu(), b)
