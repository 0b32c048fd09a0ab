"""Both ways into a SLURM queue train for real: SLURM's programs are stand-ins here, and submitit's jobs local."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import submit

from maft.data.miniature import ensure_miniature
from maft.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "tools/slurm/train.sbatch"
SHORT = ["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "2", "DATASETS.TEST", "[]"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return ensure_miniature(tmp_path_factory.mktemp("slurm") / "miniature", {"train": 8, "val": 2}).parent


def environment(world, folder):
    """Of a job with one machine and two processes, which finds stand-ins for srun and scontrol."""
    programs = folder / "programs"
    programs.mkdir()
    for name, text in {
        "srun": 'exec "$@"',
        "scontrol": f'if [ "$1" = show ]; then echo localhost; else echo "$@" >> {folder}/scontrol; fi',
    }.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}",
        "DETECTRON2_DATASETS": str(world),
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NNODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
    }


def started(world, folder, *words):
    command = ["bash", str(TEMPLATE), "quickstart/maft", *SHORT, "OUTPUT_DIR", str(folder / "run"), *words]
    log = (folder / "log").open("w")
    return subprocess.Popen(command, cwd=folder, env=environment(world, folder), stdout=log, stderr=log)


def test_the_template_trains_with_torchrun(world, tmp_path):
    job = started(world, tmp_path, "SOLVER.MAX_ITER", "2")
    assert job.wait(240) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "run/model_final/model.safetensors").is_file()
    assert "2 process(es)" in (tmp_path / "log").read_text()
    assert not (tmp_path / "scontrol").exists()


def test_the_template_saves_and_goes_back_into_the_queue_before_the_time_is_over(world, tmp_path):
    job = started(world, tmp_path, "SOLVER.MAX_ITER", "100000", "SOLVER.LOG_PERIOD", "1")
    end = time.monotonic() + 240
    while not (tmp_path / "run/metrics.json").exists() and job.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    job.wait(120)
    assert list((tmp_path / "run/checkpoints").iterdir()), (tmp_path / "log").read_text()
    assert (tmp_path / "scontrol").read_text().split() == ["requeue", str(os.getpid())]


def test_submitit_trains_in_several_processes(world, tmp_path, monkeypatch):
    for key, value in environment(world, tmp_path).items():
        if not key.startswith("SLURM"):
            monkeypatch.setenv(key, value)
    training = ["quickstart/maft", *SHORT, "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(tmp_path / "run")]
    options = ["--gpus", "2", "--cpus", "1", "--folder", str(tmp_path / "jobs")]
    monkeypatch.setattr(sys, "argv", ["submit.py", *options, *training])
    job = submit.submit(submit.parse_arguments(), cluster="local")
    job.results()
    assert (tmp_path / "run/model_final/model.safetensors").is_file()
    assert "2 process(es)" in (tmp_path / "run/log.txt").read_text()


def test_a_preempted_job_is_submitted_again_as_it_was():
    training = submit.Training(["quickstart/maft"])
    assert training.checkpoint().function is training


def test_without_slurm_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["submit.py", "quickstart/maft"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="There is no SLURM on this machine"):
        submit.submit(submit.parse_arguments())
