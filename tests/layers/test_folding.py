"""Folded convolutions equal what they fold, follow every change of its weights, and leave gradients and names alone."""

import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from maft.layers.folding import FoldedConv2d, fold_normalisations


def folded(norm=FrozenBatchNorm2d, bias=False, frozen=True):
    torch.manual_seed(0)
    conv = Conv2d(3, 4, 3, padding=1, bias=bias, norm=norm(4), activation=torch.relu)
    with torch.no_grad():
        for value in (conv.norm.weight, conv.norm.bias, conv.norm.running_mean, conv.norm.running_var):
            value.uniform_(0.5, 2)
    names = list(conv.state_dict())
    conv = fold_normalisations(nn.Sequential(conv.requires_grad_(not frozen)).eval())[0]
    assert isinstance(conv, FoldedConv2d) and list(conv.state_dict()) == names
    return conv


@pytest.fixture
def maps():
    return torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm", [FrozenBatchNorm2d, nn.BatchNorm2d])
@pytest.mark.parametrize("bias", [False, True])
def test_one_convolution_equals_both_steps(norm, bias, maps):
    conv = folded(norm, bias)
    output = conv(maps)
    torch.testing.assert_close(output, conv.by_definition(maps), rtol=1e-5, atol=1e-6)
    assert output.is_contiguous(memory_format=torch.channels_last) and conv._folded is not None


def test_weights_are_folded_once(maps):
    conv = folded()
    conv(maps)
    first = conv._folded[1]
    conv(maps)
    assert conv._folded[1] is first


CHANGES = {
    "loaded": lambda conv: conv.load_state_dict({name: value + 1 for name, value in conv.state_dict().items()}),
    "written": lambda conv: conv.norm.running_mean.add_(1),
    "replaced": lambda conv: setattr(conv, "weight", nn.Parameter(conv.weight + 1, requires_grad=False)),
    "another type": lambda conv: conv.double(),
    "rounded": lambda conv: conv.bfloat16().float(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_weights_is_seen(change, maps):
    conv = folded()
    conv(maps)
    with torch.no_grad():
        CHANGES[change](conv)
    maps = maps.to(conv.weight.dtype)
    torch.testing.assert_close(conv(maps), conv.by_definition(maps), rtol=1e-5, atol=1e-6)


def test_weights_with_gradients_are_not_folded(maps):
    conv = folded(frozen=False)
    conv(maps).sum().backward()
    assert conv.weight.grad is not None and conv._folded is None
    with torch.no_grad():
        conv(maps)
    assert conv._folded is not None


def test_statistics_that_are_learned_are_not_folded(maps):
    conv = folded(nn.BatchNorm2d)
    conv.train()
    before = conv.norm.running_mean.clone()
    conv(maps)
    assert conv._folded is None and not torch.equal(conv.norm.running_mean, before)


def test_frozen_weights_pass_gradients_on_after_inference_mode(maps):
    conv = folded()
    with torch.inference_mode():
        conv(maps)
    gradients = []
    for form in (conv, conv.by_definition):
        inputs = maps.clone().requires_grad_()
        form(inputs).square().sum().backward()
        gradients.append(inputs.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_a_copy_has_weights_of_its_own(maps):
    conv = folded()
    conv(maps)
    other = copy.deepcopy(conv)
    with torch.no_grad():
        other.weight.zero_()
    assert not torch.equal(other(maps), conv(maps))
    torch.testing.assert_close(other(maps), other.by_definition(maps))
