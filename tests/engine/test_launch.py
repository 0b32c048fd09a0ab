import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from maft.engine import launch as module
from maft.engine.launch import Processes, choose_processes, launch
from maft.errors import UserError


@pytest.fixture
def gpus(monkeypatch):
    def set_count(count):
        monkeypatch.setattr(module.torch.cuda, "device_count", lambda: count)

    return set_count


@pytest.mark.parametrize(
    ("present", "options", "expected"),
    [
        (0, {"device": "cuda"}, ("cpu", 1)),
        (2, {"device": "cuda"}, ("cuda", 1)),
        (2, {"device": "cpu"}, ("cpu", 1)),
        (2, {"device": "cpu", "num_gpus": 2}, ("cuda", 2)),
        (2, {"device": "cuda", "num_gpus": 0, "num_processes": 3}, ("cpu", 3)),
        (2, {"device": "cuda", "num_processes": 2}, ("cpu", 2)),
    ],
)
def test_choice_of_processes(gpus, present, options, expected):
    gpus(present)
    processes = choose_processes(**options)
    assert (processes.device, processes.per_machine) == expected


@pytest.mark.parametrize(
    ("present", "options", "sentence"),
    [
        (0, {"num_gpus": 2}, "--num-gpus 2 cannot be had: this machine has no usable GPUs"),
        (1, {"num_gpus": 2}, "this machine has 1 usable GPU;"),
        (0, {"num_gpus": -1}, "--num-gpus -1"),
        (0, {"num_processes": 0}, "at least one"),
        (2, {"num_gpus": 2, "num_processes": 2}, "is for the CPU"),
        (0, {"machines": 2, "machine_rank": 2, "url": "tcp://a:1"}, "--machine-rank 2"),
        (0, {"machines": 2}, "--dist-url"),
        (0, {"device": "tpu"}, "MODEL.DEVICE is 'tpu': use cuda or cpu"),
    ],
)
def test_impossible_processes(gpus, present, options, sentence):
    gpus(present)
    with pytest.raises(UserError, match=sentence):
        choose_processes(**{"device": "cuda", **options})


def test_a_taken_port_is_refused_before_anything_starts():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {port} of --dist-url .* cannot be used"):
            launch(print, (), Processes("cpu", 2, url=f"tcp://127.0.0.1:{port}"))


@pytest.mark.parametrize("url", ["localhost:1", "tcp://localhost", "tcp://localhost:x", "file:///tmp/x"])
def test_an_address_of_another_form_is_refused(url):
    with pytest.raises(UserError, match="tcp://HOST:PORT"):
        launch(print, (), Processes("cpu", 2, url=url))


def test_no_free_port_at_all(monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("The server socket has failed to listen: Address already in use")

    monkeypatch.setattr(module.dist, "TCPStore", refuse)
    with pytest.raises(UserError, match="No free port"):
        launch(print, (), Processes("cpu", 2))


def test_one_process_runs_here():
    seen = []
    launch(seen.append, (3,), Processes("cpu"))
    assert seen == [3]


TWO_PROCESSES = """
import torch
import torch.distributed as dist

from maft.layers.distributed import global_mean, rank
from maft.engine.launch import Processes, launch
from maft.errors import UserError, run_tool


def mistake_of_one():
    if rank() == 1:
        raise UserError("the image of process 1 is broken")
    dist.barrier()


def mean_of_three():
    # Process 0 has two elements, process 1 has one: their average must be the mean of all three.
    values, weight = torch.tensor([[1.0, 2.0], [6.0, 0.0]][rank()]), torch.ones((), requires_grad=True)
    loss = global_mean((2.0 * weight**2 * values).sum(), 2 - rank())
    loss.backward()
    average = torch.stack([loss.detach(), weight.grad])
    dist.all_reduce(average)
    if rank() == 0:
        print("average", (average / 2).tolist())


def main():
    launch(mean_of_three, (), Processes("cpu", 2))
    launch(mistake_of_one, (), Processes("cpu", 2))


if __name__ == "__main__":
    run_tool(main)
"""


def test_two_processes_share_a_mean_and_report_one_mistake(tmp_path):
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES)
    root = Path(module.__file__).parent.parent.parent
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.stdout == "average [6.0, 12.0]\n"
    assert result.stderr == "error: the image of process 1 is broken\n"
    assert result.returncode == 1
