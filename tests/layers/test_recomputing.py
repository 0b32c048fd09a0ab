"""Activation checkpointing of any part: less is kept, gradients and random numbers are the same."""

import pytest
import torch
from torch import nn

from maft.errors import UserError
from maft.layers.compiling import method_of
from maft.layers.recomputing import recomputed, recomputed_names


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.dropout, self.calls = nn.Linear(8, 8), nn.Dropout(0.5), 0

    def forward(self, given, *, scale):
        self.calls += 1
        return {"values": self.dropout(self.linear(given["values"]).relu()) * scale}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.last = nn.ModuleList(Block() for _ in range(3)), nn.Linear(8, 1)

    def forward(self, values):
        features = {"values": values}
        for block in self.blocks:
            features = block(features, scale=2.0)
        return self.last(features["values"]).square().sum()


def replaced(model, names):
    for name in recomputed_names(model, names):
        method = method_of(model, name)
        method.__self__.forward = recomputed(method)
    return model


def gradients(model, values):
    model.zero_grad()
    kept = []
    with torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        torch.manual_seed(5)
        model(values).backward()
    return [parameter.grad for parameter in model.parameters()], len(kept)


def test_gradients_and_random_numbers_are_equal_and_less_is_kept():
    model, values = Model(), torch.randn(4, 8)
    expected, kept = gradients(model, values)
    found, fewer = gradients(replaced(model, ["blocks"]), values)
    for left, right in zip(expected, found):
        assert torch.equal(left, right)
    assert fewer < kept
    # The first time without, then forwards and backwards.
    assert [block.calls for block in model.blocks] == [3, 3, 3]


def test_nothing_is_recomputed_without_gradients():
    model = replaced(Model(), ["blocks"])
    with torch.no_grad():
        model(torch.randn(4, 8))
    assert [block.calls for block in model.blocks] == [1, 1, 1]


def test_names_of_lists_stand_for_their_members():
    model = Model()
    model.pair = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    names = recomputed_names(model, ["blocks", "last", "blocks.1", "pair"])
    assert names == ["blocks.0", "blocks.1", "blocks.2", "last", "pair.0", "pair.1"]


def test_batch_norms_that_train_are_refused_and_others_are_not():
    model = Model()
    model.blocks[1].norm = nn.BatchNorm1d(8)
    replaced(model, ["blocks"])
    with pytest.raises(UserError, match="Block holds batch norms that train.*SOLVER.ACTIVATION_CHECKPOINTING"):
        model(torch.randn(4, 8))
    model.blocks[1].norm.eval()
    model(torch.randn(4, 8)).backward()
