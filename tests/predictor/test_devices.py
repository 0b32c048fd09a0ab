"""Precisions that are there, and what is said of others."""

import logging
from functools import partial

import pytest
import torch
from torch import nn

from maft.errors import UserError
from maft.predictor.devices import compile_parts, precision_of

CPU = torch.device("cpu")


def test_precisions(caplog):
    assert precision_of(None, CPU) is precision_of("float32", CPU) is precision_of(torch.float32, CPU) is None
    assert precision_of("bfloat16", CPU) == precision_of(torch.bfloat16, CPU) == torch.bfloat16
    for other in ("half", torch.float64, 16):
        with pytest.raises(UserError, match="is none of float32, float16, bfloat16"):
            precision_of(other, CPU)


def test_a_device_that_cannot_says_so_and_goes_on(caplog, monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    with caplog.at_level(logging.WARNING):
        assert precision_of("float16", CPU) is None
    assert caplog.messages == ["cpu cannot compute in float16 here: float32 is used."]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.proposer, self.classifier = nn.Module(), nn.Linear(2, 2)
        self.proposer.backbone, self.proposer.other = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, values):
        return self.classifier(self.proposer.other(self.proposer.backbone(values)))


@pytest.mark.parametrize(
    ("names", "compiled"), [((), {"backbone"}), (("classifier", "proposer.other"), {"classifier", "other"})]
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
        compile_parts(Model(), ("proposer.decoder",))
