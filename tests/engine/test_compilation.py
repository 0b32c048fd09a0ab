import pytest
import torch
from torch import nn

from maft.engine.hooks import CompiledParts
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
    hook = CompiledParts(model, ["called", "last"])
    assert hook.waiting == {"called", "last"}
    torch.testing.assert_close(model(values), expected)
    assert list(model.state_dict()) == names
    hook.after_step()


def test_a_part_that_is_never_called_as_a_whole_is_named():
    model = Model()
    hook = CompiledParts(model, ["called", "opened"])
    model(torch.rand(4, 2))
    with pytest.raises(UserError, match="'opened', which this model never calls as a whole"):
        hook.after_step()


@pytest.mark.parametrize("name", ["hed", "called.hed", "hed.weight", "called.weight"])
def test_an_unknown_part_is_named(name):
    with pytest.raises(UserError, match=f"'{name}', which is no submodule or method"):
        CompiledParts(Model(), [name])
