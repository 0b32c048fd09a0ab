"""Trainings that are fused, recomputed or in half precision, and one that has no memory left."""

import json

import pytest
import torch
from engine import tiny_run
from safetensors.torch import load_file

from maft.errors import UserError


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    tiny_run.write_images(folder)
    return folder


@pytest.fixture
def train(images):
    threads = torch.get_num_threads()

    def train(output, *overrides, resume=False):
        tiny_run.run_registered(str(images), tiny_run.config(output, *overrides), resume)
        lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
        losses = torch.tensor([[line["loss_pairs"], line["loss_images"]] for line in lines])
        return losses, load_file(output / "model_final" / "model.safetensors")

    yield train
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ["ADAMW", "SGD"])
def test_a_fused_training_equals_another_and_each_goes_on_from_the_other(train, tmp_path, kind):
    # Its rate does not depend on the number of iterations.
    solver = ("SOLVER.OPTIMIZER", kind, "SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR")
    expected, weights = train(tmp_path / "plain", *solver)
    for first in (True, False):
        folder = tmp_path / f"fused first {first}"
        train(folder, *solver, "SOLVER.FUSED", first, "SOLVER.MAX_ITER", 3)
        losses, found = train(folder, *solver, "SOLVER.FUSED", not first, resume=True)
        torch.testing.assert_close(losses, expected, rtol=1e-4, atol=0)
        for name, value in found.items():
            torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-6)


def test_recomputing_changes_no_number(train, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_DROPOUT", "0.3")
    expected, weights = train(tmp_path / "kept")
    losses, found = train(tmp_path / "anew", "SOLVER.ACTIVATION_CHECKPOINTING", ["backbone", "norm", "dropout", "head"])
    assert torch.equal(losses, expected)
    assert found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)


def test_half_precision_trains_and_where_there_is_none_it_says_so(train, tmp_path, monkeypatch):
    half = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16")
    expected, _ = train(tmp_path / "float32")
    losses, _ = train(tmp_path / "bfloat16", *half)
    torch.testing.assert_close(losses, expected, rtol=0.05, atol=0)
    assert not torch.equal(losses, expected)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    losses, _ = train(tmp_path / "unable", *half)
    assert torch.equal(losses, expected)
    log = (tmp_path / "unable/log.txt").read_text()
    assert log.count("cpu cannot compute in bfloat16 here: float32 is used.") == 1


def test_no_memory_left_is_a_sentence_with_the_options_that_need_less(train, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_KILL_AT", "1")
    monkeypatch.setenv("TINY_EVENT", "OutOfMemoryError")
    with pytest.raises(UserError, match=r"does not suffice for the training \(.*\): SOLVER\.ACCUMULATE 2 halves"):
        train(tmp_path)
