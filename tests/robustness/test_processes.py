"""Runs of several real processes of which one is killed, stopped, late or wrong: clear words, nobody left, resumed.

One trial belongs to every test run, all of them to ``make kill-test``.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "tests/engine/tiny_run.py"
OWN = [sys.executable, str(SCRIPT), "--processes", "2"]
ALONE = [sys.executable, str(SCRIPT)]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


long = pytest.mark.skipif(not os.environ.get("MAFT_KILL"), reason="long: make kill-test runs it")


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def _ended_after_a_failure():
    yield
    while STARTED:
        if (run := STARTED.pop()).poll() is None:
            # The others end by themselves without their launcher.
            run.kill()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    code = f"import tiny_run, pathlib; tiny_run.write_images(pathlib.Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=SCRIPT.parent, env=environment(), check=True)
    return folder


def environment(**variables):
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **variables}


def start(command, images, output, *arguments, **variables):
    command = [*command, *([] if str(SCRIPT) in command else [str(SCRIPT)]), str(images), str(output), *arguments]
    run = subprocess.Popen(
        command, env=environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    STARTED.append(run)
    return run


def endless(images, output, *arguments, command=OWN, **variables):
    """A run without an end, once it has written its first checkpoint."""
    run = start(command, images, output, "SOLVER.MAX_ITER", "100000", *arguments, RUN=str(output), **variables)
    deadline = time.monotonic() + 300
    while not (output / "checkpoints/last_checkpoint").exists() and time.monotonic() < deadline:
        assert run.poll() is None, finished(run)
        time.sleep(0.1)
    return run


def finished(process):
    try:
        output, errors = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, output + errors


def left_behind(output):
    """Processes whose environment or command line names the output folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "environ").read_text(errors="replace") + (folder / "cmdline").read_text(errors="replace")
        except OSError:
            continue
        if str(output) in words:
            found.append(int(folder.name))
    return found


def children_of(pid):
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def meeting():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(probe.getsockname()[1])}


def weights(output):
    return (output / "model_final/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def unbroken(images, tmp_path_factory):
    output = tmp_path_factory.mktemp("unbroken")
    status, text = finished(start(OWN, images, output))
    assert status == 0, text
    return weights(output)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=long), 1])
def test_a_killed_process_is_named_and_the_run_resumes(images, unbroken, tmp_path, rank):
    run = start(OWN, images, tmp_path, TINY_KILL_AT="3", TINY_RANK=str(rank), RUN=str(tmp_path))
    status, text = finished(run)
    assert status == 1
    assert re.search(rf"^error: Process {rank} \(pid \d+\) was killed \(SIGKILL\).* --resume\.$", text, re.MULTILINE)
    assert "Traceback" not in text and not left_behind(tmp_path)
    status, text = finished(start(OWN, images, tmp_path, "--resume"))
    assert status == 0, text
    assert weights(tmp_path) == unbroken


@long
def test_under_torchrun_the_others_name_the_one_that_failed(images, tmp_path):
    run = start(TORCHRUN, images, tmp_path, TINY_KILL_AT="1", TINY_RANK="1", TINY_EVENT="UserError", RUN=str(tmp_path))
    status, text = finished(run)
    assert status == 1 and "error: this one fails\n" in text
    assert re.search(r"^error: process 0 \(pid \d+ on .*\) ends because of process 1 \(pid \d+ on", text, re.MULTILINE)
    assert "gloo" not in text and not left_behind(tmp_path)


@long
def test_a_stopped_process_is_named_and_the_run_ends(images, tmp_path):
    run = start(
        OWN, images, tmp_path, "--timeout", "0.5",
        TINY_KILL_AT="1", TINY_RANK="1", TINY_EVENT=str(int(signal.SIGSTOP)), RUN=str(tmp_path),
    )  # fmt: skip
    status, text = finished(run)
    assert status == 1
    assert re.search(r"^Waiting for process 1 \(pid \d+ on .* the run ends after 0.5 minutes", text, re.MULTILINE)
    assert re.search(r"^error: Waited 0.5 minutes for process 1 \(pid \d+ on", text, re.MULTILINE)
    assert "Traceback" not in text and not left_behind(tmp_path)


@long
def test_an_exception_keeps_its_traceback_alone(images, tmp_path):
    run = start(OWN, images, tmp_path, TINY_KILL_AT="1", TINY_RANK="1", TINY_EVENT="ValueError", RUN=str(tmp_path))
    status, text = finished(run)
    assert status == 1 and text.count("Traceback") == 1 and "ValueError: this one fails" in text
    assert re.search(
        r"^error: Process 1 \(pid \d+\) failed with status 1: its own message is above", text, re.MULTILINE
    )
    assert not left_behind(tmp_path)


@long
@pytest.mark.parametrize("command", [OWN, TORCHRUN], ids=["own", "torchrun"])
def test_a_killed_launcher_leaves_nobody(images, tmp_path, command):
    run = endless(images, tmp_path, command=command)
    assert len(left_behind(tmp_path)) >= 3
    run.kill()
    run.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while left_behind(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left_behind(tmp_path)


@long
def test_torchrun_starts_a_killed_run_again(images, unbroken, tmp_path):
    run = start(
        [*TORCHRUN, "--max-restarts", "1"], images, tmp_path, "--resume",
        TINY_KILL_AT="5", TINY_RANK="1", TINY_ATTEMPT="0", RUN=str(tmp_path),
    )  # fmt: skip
    status, text = finished(run)
    assert status == 0, text
    assert "Resuming from" in text and weights(tmp_path) == unbroken and not left_behind(tmp_path)


@long
def test_the_missing_process_is_named(images, tmp_path):
    run = start(ALONE, images, tmp_path, "--timeout", "0.05", RANK="0", LOCAL_RANK="0", **meeting())
    status, text = finished(run)
    assert status == 1
    assert re.search(r"^Waiting for process 1 of 2 to start, \d+ s so far", text, re.MULTILINE)
    assert re.search(r"^error: .* process 1 of 2 did not start within 0.05 minutes; ", text, re.MULTILINE)
    assert "Traceback" not in text


@long
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            ("SOLVER.BASE_LR", "0.02"),
            "SOLVER.BASE_LR is 0.01 in process 0 and 0.02 in process 1: start all with",
        ),
        (("--resume",), "--resume is False in process 0 and True in process 1: start all with the same config"),
    ],
)
def test_processes_that_were_started_differently_are_refused(images, tmp_path, change, sentence):
    place = meeting()
    first = start(ALONE, images, tmp_path, RANK="0", LOCAL_RANK="0", **place)
    second = start(ALONE, images, tmp_path, *change, RANK="1", LOCAL_RANK="1", **place)
    for status, text in (finished(first), finished(second)):
        assert (
            status == 1 and f"error: The processes of this run differ: {sentence}" in text and "Traceback" not in text
        )


@long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_the_launcher_stops_all_and_saves(images, tmp_path, number):
    run = endless(images, tmp_path)
    run.send_signal(number)
    status, text = finished(run)
    advice = r"Stopped and saved .* go on with: python \S+/tiny_run\.py .* --resume$"
    assert status == 128 + number and re.search(advice, text, re.MULTILINE)
    assert text.count("Ctrl-C once more stops at once") == 1
    assert "Traceback" not in text and not left_behind(tmp_path)


@long
def test_a_second_request_to_the_launcher_ends_all_at_once(images, tmp_path):
    run = endless(
        images, tmp_path, "--timeout", "5", TINY_RANK="1", TINY_KILL_AT="9", TINY_EVENT=str(int(signal.SIGSTOP))
    )
    # A process that does not answer any more cannot finish its iteration.
    time.sleep(5)
    for _ in range(2):
        run.send_signal(signal.SIGINT)
        time.sleep(1)
    status, text = finished(run)
    assert status == 130 and "Traceback" not in text and not left_behind(tmp_path)


@long
def test_a_killed_worker_of_one_process_ends_the_run_with_one_sentence(images, tmp_path):
    run = endless(images, tmp_path, "DATALOADER.NUM_WORKERS", "1")
    children = [child for pid in left_behind(tmp_path) if pid != run.pid for child in children_of(pid)]
    os.kill(children[-1], signal.SIGKILL)
    status, text = finished(run)
    assert status == 1 and re.search(r"^error: A process that reads images ended ", text, re.MULTILINE), text
    assert "Traceback" not in text and not left_behind(tmp_path)
