"""The precision of iterations is theirs alone."""

import logging

import pytest
import torch
from detectron2.engine import HookBase, TrainerBase

from maft.engine.precision import TensorFloat32
from maft.errors import UserError

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def ampere(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))


def products():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


class Noting(TrainerBase):
    def __init__(self, fail_at=-1):
        super().__init__()
        self.fail_at, self.noted = fail_at, []

    def run_step(self):
        self.noted.append(products())
        if self.iter == self.fail_at:
            raise UserError("stop")


class Evaluation(HookBase):
    def __init__(self):
        self.noted = []

    def after_step(self):
        self.noted.append(products())


@pytest.mark.parametrize(
    ("wanted", "device", "used"),
    [
        (None, GPU, True),
        (True, GPU, True),
        (False, GPU, False),
        (None, torch.device("cpu"), False),
        (True, torch.device("cpu"), False),
    ],
)
def test_iterations_have_tf32_and_what_is_between_them_has_not(wanted, device, used):
    before, trainer, evaluation = products(), Noting(), Evaluation()
    trainer.register_hooks([TensorFloat32(wanted, device), evaluation])
    trainer.train(0, 3)
    assert trainer.noted == [("high", True) if used else ("highest", False)] * 3
    assert evaluation.noted == [before] * 3 and products() == before


def test_a_failed_iteration_leaves_nothing_behind():
    before, trainer = products(), Noting(fail_at=1)
    trainer.register_hooks([TensorFloat32(None, GPU)])
    with pytest.raises(UserError, match="stop"):
        trainer.train(0, 3)
    assert products() == before


def test_a_gpu_says_once_what_is_used(caplog):
    with caplog.at_level(logging.INFO):
        TensorFloat32(None, GPU)
        TensorFloat32(False, GPU)
        TensorFloat32(None, torch.device("cpu"))
    assert caplog.messages == [
        "Products of float32 in training are computed in TF32.",
        "Products of float32 in training are computed in float32.",
    ]
