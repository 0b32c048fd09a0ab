"""Whole runs of a tiny model; the interrupted and the two-process ones are real processes."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from engine import tiny_run
from safetensors.torch import load_file

from maft.engine.trainer import Trainer
from maft.errors import UserError
from maft.files import held

SCRIPT = Path(__file__).parent / "tiny_run.py"
ROOT = SCRIPT.parent.parent.parent


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    tiny_run.write_images(folder)
    return folder


@pytest.fixture
def train(images):
    threads = torch.get_num_threads()

    def train(output, *overrides, resume=False, folder=images):
        tiny_run.run_registered(str(folder), tiny_run.config(output, *overrides), resume)
        return losses(output), load_file(output / "model_final" / "model.safetensors")

    yield train
    torch.set_num_threads(threads)


def losses(output):
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return [(line["iteration"], line["loss_pairs"], line["loss_images"]) for line in lines]


def script(images, output, *arguments, **environment):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(images), str(output), *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def same(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], **(tolerance or {"rtol": 0, "atol": 0}))


def test_killed_and_resumed_equals_unbroken_bit_for_bit(train, images, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_DROPOUT", "0.3")
    expected_losses, expected = train(tmp_path / "unbroken")
    killed = script(images, tmp_path / "killed", TINY_KILL_AT="5")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "killed/checkpoints/last_checkpoint").read_text() == "iter_0000004\n"
    seen, weights = train(tmp_path / "killed", "DATALOADER.NUM_WORKERS", 1, resume=True)
    assert seen == expected_losses
    same(weights, expected)
    states = [
        torch.load(tmp_path / run / "checkpoints/iter_0000006/trainer.pt", weights_only=True)
        for run in ("unbroken", "killed")
    ]
    assert states[0]["iteration"] == 6
    assert str(states[0]) == str(states[1])


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_request_to_stop_finishes_the_step_and_saves_it(train, images, tmp_path, number, processes):
    expected_losses, expected = train(tmp_path / "unbroken")
    stopped = script(
        images, tmp_path / "stopped", "--processes", str(processes), TINY_KILL_AT="2", TINY_EVENT=str(int(number))
    )
    assert stopped.returncode == 128 + number, stopped.stderr
    assert "Traceback" not in stopped.stderr and "Ctrl-C once more" in stopped.stderr
    log = (tmp_path / "stopped/log.txt").read_text()
    command = f"python {SCRIPT} {images} {tmp_path / 'stopped'} --processes {processes} --resume"
    assert f"Stopped and saved after 3 of 6 iterations; go on with: {command}\n" in log
    assert (tmp_path / "stopped/checkpoints/last_checkpoint").read_text() == "iter_0000003\n"
    if processes == 1:
        seen, weights = train(tmp_path / "stopped", resume=True)
        assert seen == expected_losses
        same(weights, expected)


def test_weights_that_are_not_finite_are_not_saved(train, tmp_path, monkeypatch):
    monkeypatch.setattr(
        tiny_run.TinyRunModel, "after_optimizer_step", lambda model: model.head.weight.data.fill_(math.inf)
    )
    with pytest.raises(UserError, match="weights are not finite after iteration 0 and were not saved"):
        train(tmp_path, "SOLVER.MAX_ITER", 1)
    assert not (tmp_path / "model_final").exists() and not list(tmp_path.glob("checkpoints/iter_*"))


def test_one_run_at_a_time_in_an_output_folder(train, tmp_path):
    with held(tmp_path), pytest.raises(UserError, match=rf"is in use by process {os.getpid()} on "):
        train(tmp_path)
    train(tmp_path)


def test_two_processes_train_like_one(train, images, tmp_path):
    expected_losses, expected = train(tmp_path / "one")
    two = script(images, tmp_path / "two", "--processes", "2")
    assert two.returncode == 0, two.stderr
    torch.testing.assert_close(
        torch.tensor(losses(tmp_path / "two")), torch.tensor(expected_losses), rtol=1e-5, atol=1e-7
    )
    same(load_file(tmp_path / "two/model_final/model.safetensors"), expected, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_ends_the_run(train, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_EXPLODE_AT", "1")
    with pytest.raises(UserError, match=r"not finite at iteration 1 \(loss_images nan\): lower SOLVER.BASE_LR"):
        train(tmp_path)


@pytest.fixture
def behind(monkeypatch):
    """A device that is two iterations behind the host."""
    monkeypatch.setattr("maft.engine.training.Trainer", partial(Trainer, behind=2))


def test_numbers_of_a_device_that_is_behind_are_those_of_their_iterations(train, tmp_path, behind):
    seen, weights = train(tmp_path / "behind", "SOLVER.LOG_PERIOD", 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maft.engine.training.Trainer", Trainer)
        expected_losses, expected = train(tmp_path / "along", "SOLVER.LOG_PERIOD", 4)
    assert seen == expected_losses and [iteration for iteration, *_ in seen] == [3, 5]
    same(weights, expected)


def test_nothing_is_saved_after_a_loss_that_is_not_finite(train, tmp_path, monkeypatch, behind):
    monkeypatch.setenv("TINY_EXPLODE_AT", "2")
    # Weights that stay finite tell nothing of it.
    with pytest.raises(UserError, match=r"not finite at iteration 2 \(loss_images nan"):
        train(
            tmp_path,
            "SOLVER.LOG_PERIOD",
            20,
            "SOLVER.CHECKPOINT_PERIOD",
            2,
            "SOLVER.MAX_ITER",
            30,
            "SOLVER.BASE_LR",
            0.0,
        )
    assert (tmp_path / "checkpoints/last_checkpoint").read_text() == "iter_0000002\n"
    assert not (tmp_path / "model_final").exists()


def test_a_request_to_stop_is_followed_while_the_device_is_behind(train, tmp_path, monkeypatch, behind):
    monkeypatch.setenv("TINY_KILL_AT", "3")
    monkeypatch.setenv("TINY_EVENT", str(int(signal.SIGTERM)))
    with pytest.raises(SystemExit):
        train(tmp_path, "SOLVER.LOG_PERIOD", 20, "SOLVER.CHECKPOINT_PERIOD", 0, "SOLVER.MAX_ITER", 30)
    assert (tmp_path / "checkpoints/last_checkpoint").read_text() == "iter_0000006\n"


def test_a_run_that_is_stopped_in_its_first_iteration_says_only_that(train, tmp_path, monkeypatch):
    # Detectron2's printer divides by zero when it prints an iteration a second time.
    monkeypatch.setenv("TINY_KILL_AT", "0")
    monkeypatch.setenv("TINY_EVENT", str(int(signal.SIGTERM)))
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert [iteration for iteration, *_ in losses(tmp_path)] == [0]
    assert "could not be closed" not in (tmp_path / "log.txt").read_text()


def test_what_fails_while_a_run_is_closed_does_not_hide_why_it_ends(train, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("TINY_EXPLODE_AT", "0")
    monkeypatch.setattr("maft.engine.training.JSONWriter.write", fail)
    with pytest.raises(UserError, match="not finite at iteration 0"):
        train(tmp_path)
    assert re.search("could not be closed properly: .*No space left", (tmp_path / "log.txt").read_text())


def test_a_loss_of_several_numbers_is_named(train, tmp_path, monkeypatch):
    forward = tiny_run.TinyRunModel.forward
    monkeypatch.setattr(
        tiny_run.TinyRunModel, "forward", lambda model, batch: {**forward(model, batch), "loss_images": torch.ones(2)}
    )
    with pytest.raises(UserError, match=r"The loss 'loss_images' has shape \(2,\): take its mean or sum"):
        train(tmp_path)


@pytest.mark.parametrize("name", ["file", "file/below", "a" * 300])
@pytest.mark.parametrize("resume", [False, True])
def test_an_output_folder_that_cannot_be_one(train, tmp_path, name, resume):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot (write to folder|be used)"):
        train(tmp_path / name, resume=resume)


def test_accumulation_keeps_the_global_batch(train, tmp_path):
    tiny_run.write_images(tmp_path / "images", same_number=True)
    expected_losses, expected = train(tmp_path / "whole", folder=tmp_path / "images")
    seen, weights = train(tmp_path / "halves", "SOLVER.ACCUMULATE", 2, folder=tmp_path / "images")
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected_losses), rtol=1e-5, atol=1e-7)
    same(weights, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_mixed_precision_stays_near_float32_and_keeps_float32_weights(train, tmp_path, kind):
    expected_losses, _ = train(tmp_path / "float32")
    seen, weights = train(tmp_path / kind, "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", kind)
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected_losses), rtol=0.05, atol=0.01)
    assert seen != expected_losses
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_a_used_output_folder_is_refused_and_left_alone(train, tmp_path):
    train(tmp_path, "SOLVER.MAX_ITER", 2)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=r"already holds checkpoints.*--resume"):
        train(tmp_path)
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}


def test_resume_without_checkpoint_starts_fresh_and_a_longer_run_goes_on(train, tmp_path, caplog):
    first, _ = train(tmp_path, "SOLVER.MAX_ITER", 2, resume=True)
    assert "Nothing to resume from" in (tmp_path / "log.txt").read_text()
    both, _ = train(tmp_path, "SOLVER.MAX_ITER", 4, resume=True)
    assert [iteration for iteration, *_ in both] == [0, 1, 2, 3]
    assert both[:2] == first


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("SOLVER.ACCUMULATE", 3), "SOLVER.IMS_PER_BATCH 4 .* SOLVER.ACCUMULATE 3"),
        (("SOLVER.COMPILE", ["hed"]), "'hed'"),
        (("DATASETS.TRAIN", ("nowhere",)), "'nowhere'"),
        (("DATASETS.TRAIN", ()), "DATASETS.TRAIN"),
        (("MODEL.WEIGHTS", "missing.safetensors"), r"missing\.safetensors does not exist"),
    ],
)
def test_options_that_do_not_fit(train, tmp_path, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        train(tmp_path, *overrides)


def test_a_resumed_run_takes_the_solver_of_its_config_and_says_so(train, tmp_path):
    train(tmp_path, "SOLVER.MAX_ITER", 2)
    train(
        tmp_path, "SOLVER.MAX_ITER", 4, "SOLVER.BASE_LR", 1e-6, "SOLVER.WEIGHT_DECAY", 0.5,
        "SOLVER.LR_MULTIPLIERS", [["head", 0.1]], resume=True,
    )  # fmt: skip
    log = (tmp_path / "log.txt").read_text()
    assert re.search(r"SOLVER\.WEIGHT_DECAY was \S+ in the checkpoint and is 0\.5 from here on", log)
    assert "SOLVER.BASE_LR was" in log and "SOLVER.LR_MULTIPLIERS was [] in" in log and "OUTPUT_DIR was" not in log
    saved = torch.load(tmp_path / "checkpoints/iter_0000004/trainer.pt", weights_only=True)["optimizer"]
    assert max(group["weight_decay"] for group in saved["param_groups"]) == 0.5
    assert max(group["lr"] for group in saved["param_groups"]) <= 1e-6
    steps = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [step["iteration"] for step in steps] == [0, 1, 2, 3] and 0 < steps[2]["lr"] <= 1e-6


def test_another_optimiser_cannot_be_resumed_with(train, tmp_path):
    train(tmp_path, "SOLVER.MAX_ITER", 2)
    with pytest.raises(UserError, match=r"another SOLVER\.OPTIMIZER"):
        train(tmp_path, "SOLVER.OPTIMIZER", "SGD", resume=True)


def test_a_final_folder_that_was_not_written_is_written_by_the_next_run(train, tmp_path):
    train(tmp_path, "SOLVER.MAX_ITER", 2)
    before = (tmp_path / "model_final/model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "model_final")
    train(tmp_path, "SOLVER.MAX_ITER", 2, resume=True)
    assert (tmp_path / "model_final/model.safetensors").read_bytes() == before


def test_weights_start_a_new_run(train, tmp_path):
    _, first = train(tmp_path / "first", "SOLVER.MAX_ITER", 2)
    _, second = train(
        tmp_path / "second", "SOLVER.MAX_ITER", 1, "SOLVER.BASE_LR", 0.0,
        "MODEL.WEIGHTS", str(tmp_path / "first/model_final"),
    )  # fmt: skip
    same(first, second)


def test_a_resumed_run_has_the_classes_of_its_checkpoint(train, tmp_path):
    train(tmp_path, "SOLVER.MAX_ITER", 2)
    for file in (tmp_path / "checkpoints").glob("*/trainer.pt"):
        state = torch.load(file, weights_only=True)
        assert state["loader"]["classes"] == ["a", "b", "c"]
        state["loader"]["classes"] = ["a", "c", "b"]
        torch.save(state, file)
    with pytest.raises(UserError, match="other classes than DATASETS.TRAIN has: label 1 was 'c' and is 'b'"):
        train(tmp_path, "SOLVER.MAX_ITER", 4, resume=True)
