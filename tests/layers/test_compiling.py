"""Parts of a model by name, compiled where that is possible."""

import logging
from functools import partial

import pytest
import torch
from torch import nn

from maft.errors import UserError
from maft.layers.compiling import compile_parts, part_names


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.proposer, self.classifier = nn.Module(), nn.Linear(2, 2)
        self.proposer.backbone, self.proposer.other = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, values):
        return self.classifier(self.proposer.other(self.proposer.backbone(values)))


@pytest.mark.parametrize(
    ("names", "compiled"),
    [(["all"], {"backbone"}), (["classifier", "proposer.other"], {"classifier", "other"}), ([], set())],
)
def test_the_parts_named_or_known_are_compiled_and_answer_the_same(names, compiled, monkeypatch):
    # Traced as always; no C++ is compiled, which takes half a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model, values = Model().eval(), torch.randn(4, 2)
    with torch.no_grad():
        expected, keys = model(values), list(model.state_dict())
        compile_parts(model, names)
        torch.testing.assert_close(model(values), expected)
    assert list(model.state_dict()) == keys
    parts = {"backbone": model.proposer.backbone, "other": model.proposer.other, "classifier": model.classifier}
    assert {name for name, part in parts.items() if "forward" in vars(part)} == compiled


def test_a_part_that_is_not_there_cannot_be_compiled():
    with pytest.raises(UserError, match="SOLVER.COMPILE names 'proposer.decoder', which is no submodule"):
        compile_parts(Model(), ["proposer.decoder"])


def test_all_goes_together_with_other_names():
    assert part_names(Model(), ["classifier", "all", "proposer.backbone"]) == ["classifier", "proposer.backbone"]


def no_compiler(graph, examples):
    raise OSError("there is no C++ compiler\nand many lines follow")


def not_here(method):
    raise RuntimeError("Dynamo is not supported on this Python")


@pytest.mark.parametrize(
    ("compile_function", "reason"),
    [(partial(torch.compile, backend=no_compiler), "no C++ compiler"), (not_here, "not supported on this Python")],
)
def test_where_nothing_can_be_compiled_a_sentence_says_so_once(monkeypatch, caplog, compile_function, reason):
    monkeypatch.setattr(torch, "compile", compile_function)
    model, values = Model(), torch.randn(4, 2)
    expected = model(values)
    with caplog.at_level(logging.WARNING, logger="maft"):
        compile_parts(model, ["all"])
        for _ in range(3):
            assert torch.equal(model(values), expected)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("Linear cannot be compiled here and runs as it is: ")
    assert reason in caplog.messages[0] and "many lines" not in caplog.messages[0]
