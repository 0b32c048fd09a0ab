import pytest
import torch
from torch import nn

from maft.engine.parts import compiled_parts, recomputed_parts
from maft.errors import UserError


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.called, self.opened = nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3))

    def forward(self, values):
        return self.last(self.called(values))

    def last(self, values):
        return self.opened[0](values) * 2


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    # The whole path but code generation, which needs a C++ compiler and minutes.
    compile_function = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_function(function, backend="eager"))


def test_compiling_keeps_names_and_results():
    model, values = Model(), torch.rand(4, 2)
    names, expected = list(model.state_dict()), model(values)
    hook = compiled_parts(model, ["called", "last"])
    assert hook.waiting == {"called", "last"}
    torch.testing.assert_close(model(values), expected)
    assert list(model.state_dict()) == names
    hook.after_step()


def test_a_part_that_is_never_called_as_a_whole_is_named():
    model = Model()
    hook = compiled_parts(model, ["called", "opened"])
    model(torch.rand(4, 2))
    with pytest.raises(UserError, match="'opened', which this model never calls as a whole"):
        hook.after_step()


@pytest.mark.parametrize("name", ["hed", "called.hed", "hed.weight", "called.weight"])
def test_an_unknown_part_is_named(name):
    with pytest.raises(UserError, match=f"'{name}', which is no submodule or method"):
        compiled_parts(Model(), [name])


def test_recomputed_parts_are_watched_in_the_same_way():
    model = Model()
    with pytest.raises(UserError, match="SOLVER.ACTIVATION_CHECKPOINTING names 'hed', which is no submodule"):
        recomputed_parts(model, ["hed"])
    hook = recomputed_parts(model, ["called", "opened"])
    assert hook.waiting == {"called", "opened.0"}
    model(torch.rand(4, 2)).sum().backward()
    hook.after_step()


def test_a_part_may_be_recomputed_and_compiled():
    model, values = Model(), torch.rand(4, 2)
    model(values).sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    hooks = [recomputed_parts(model, ["last"]), compiled_parts(model, ["last"])]
    model(values).sum().backward()
    for hook in hooks:
        hook.after_step()
    for parameter, gradient in zip(model.parameters(), expected):
        torch.testing.assert_close(parameter.grad, gradient)
