"""A sharded training of two processes equals that of one and shares its checkpoints, in one launch of two processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine import sharded_run, tiny_run
from engine.test_training import ROOT, losses, same
from safetensors.torch import load_file

from maft.engine.sharding import whole_weights
from maft.engine.trainer import _by_name
from maft.errors import UserError

SCRIPT = Path(__file__).parent / "sharded_run.py"
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def train(images, output, *overrides, resume=False):
    threads = torch.get_num_threads()
    tiny_run.run_registered(str(images), tiny_run.config(output, *sharded_run.OPTIONS, *overrides), resume)
    torch.set_num_threads(threads)
    return output


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of a run of one process, of a sharded one of two, and of a sharded one that goes on from the first."""
    folder = tmp_path_factory.mktemp("runs")
    images = folder / "images"
    tiny_run.write_images(images, same_number=True)
    train(images, folder / "one", "SOLVER.KEEP_CHECKPOINTS", 0)
    shutil.copytree(folder / "one", folder / "resumed", ignore=shutil.ignore_patterns("model_final", "*4", "*6"))
    (folder / "resumed/checkpoints/last_checkpoint").write_text("iter_0000002\n")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(images), str(folder)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def weights(output):
    return load_file(output / "model_final/model.safetensors")


@pytest.mark.parametrize("name", ["sharded", "resumed"])
def test_two_sharded_processes_train_like_one(runs, name):
    torch.testing.assert_close(
        torch.tensor(losses(runs / name)), torch.tensor(losses(runs / "one")), rtol=1e-5, atol=1e-7
    )
    same(weights(runs / name), weights(runs / "one"), **CLOSE)


def test_a_checkpoint_of_a_sharded_training_is_that_of_one_process(runs):
    one, sharded = (
        torch.load(runs / name / "checkpoints/iter_0000006/trainer.pt", weights_only=True)["optimizer"]
        for name in ("one", "sharded")
    )
    moments = [
        {name: saved["state"].get(index) for name, index in _by_name(saved["param_groups"]).items()}
        for saved in (one, sharded)
    ]
    assert moments[0].keys() == moments[1].keys()
    assert moments[0].pop("nobody") is None and moments[1].pop("nobody") is None
    for name, of_one in moments[0].items():
        same(of_one, moments[1][name], **CLOSE)


def test_one_process_goes_on_from_a_sharded_checkpoint(runs, tmp_path):
    shutil.copytree(runs / "sharded", tmp_path / "run", ignore=shutil.ignore_patterns("model_final", "*6"))
    (tmp_path / "run/checkpoints/last_checkpoint").write_text("iter_0000004\n")
    train(runs / "images", tmp_path / "run", resume=True)
    same(weights(tmp_path / "run"), weights(runs / "one"), **CLOSE)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "float16"), "SOLVER.AMP.DTYPE bfloat16"),
        (("SOLVER.COMPILE", ["head"]), r"SOLVER\.COMPILE to \[\]"),
    ],
)
def test_options_that_sharding_goes_without(tmp_path, runs, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        train(runs / "images", tmp_path / "run", "SOLVER.SHARDED", True, *overrides)


def test_one_process_has_nothing_to_share(tmp_path, runs):
    run = train(runs / "images", tmp_path / "run", "SOLVER.SHARDED", True)
    same(weights(run), weights(runs / "one"))
    model = torch.nn.Linear(2, 2)
    with whole_weights(model):
        assert type(model.weight) is torch.nn.Parameter
