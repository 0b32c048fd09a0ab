"""Starts the processes of a run: one, several on this machine, several machines, or those that torchrun started."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from maft.data.workers import end_with_parent, worker_faults
from maft.engine.children import run_children
from maft.engine.meeting import Member, joined
from maft.engine.watching import say
from maft.errors import UserError, first_line


@dataclass(frozen=True)
class Processes:
    """Which processes a run consists of.

    Attributes:
        device: "cuda" (one GPU per process) or "cpu".
        per_machine: processes on each machine.
        machines, machine_rank: number of machines, and which this one is.
        url: where the processes meet, such as tcp://10.0.0.1:29500; "auto" finds a free port of this machine.
        timeout: minutes that processes wait for others before they end.
    """

    device: str
    per_machine: int = 1
    machines: int = 1
    machine_rank: int = 0
    url: str = "auto"
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.machines < 1 or not 0 <= self.machine_rank < self.machines:
            raise UserError(
                f"--machine-rank {self.machine_rank} does not go with --num-machines {self.machines}: "
                "ranks count from 0 to the number of machines minus 1."
            )
        if self.machines > 1 and self.url == "auto":
            raise UserError("Several machines need --dist-url tcp://HOST:PORT, an address of the first machine.")
        if not 0 < self.timeout <= 60 * 24 * 7:
            raise UserError(f"--timeout {self.timeout:g} is no number of minutes between 0 and a week's 10080.")


def choose_processes(
    *, device: str, num_gpus: int | None = None, num_processes: int | None = None, **others: Any
) -> Processes:
    """Turns command line options into processes.

    Args:
        device: ``MODEL.DEVICE``.
        num_gpus: GPUs per machine; 0 means the CPU, None one GPU where ``device`` asks for it and there is one.
        num_processes: processes per machine on the CPU.
        others: ``machines``, ``machine_rank``, ``url`` and ``timeout`` of `Processes`.

    Raises:
        UserError: an unknown device, more GPUs than the machine has, or options that contradict each other.
    """
    if device != "cpu" and not re.fullmatch(r"cuda(:0)?", device):
        raise UserError(f"MODEL.DEVICE is {device!r}: use cuda or cpu, and CUDA_VISIBLE_DEVICES to choose a GPU.")
    present = torch.cuda.device_count()
    if num_gpus is not None and (num_gpus < 0 or num_gpus > present):
        raise UserError(
            f"--num-gpus {num_gpus} cannot be had: this machine has {present or 'no'} usable GPU"
            f"{'' if present == 1 else 's'}; use --num-gpus 0 (with --num-processes N) to train on the CPU."
        )
    if num_processes is not None and num_processes < 1:
        raise UserError(f"--num-processes {num_processes}: at least one process is needed.")
    if num_gpus and num_processes:
        raise UserError("--num-processes is for the CPU; on GPUs there is one process per GPU (--num-gpus).")
    if num_gpus is None and num_processes is None and device.startswith("cuda") and present:
        num_gpus = 1
    if num_gpus:
        return Processes("cuda", num_gpus, **others)
    return Processes("cpu", num_processes or 1, **others)


def launch(
    function: Callable[..., Any], arguments: tuple[Any, ...], processes: Processes, *, imports: Sequence[str] = ()
) -> None:
    """Runs ``function(*arguments)`` in every process of the run and waits for them.

    Under torchrun or a compatible launcher this process is one of them already and ``processes`` only names the device
    and the timeout.

    Args:
        imports: ``IMPORTS`` of the config, which a process that is started here has to import again.

    Raises:
        UserError: the first one raised in any process; a process failed or was killed; or they cannot meet.
        SystemExit: they stopped because they were asked to.
    """
    if member := Member.from_environment():
        if "TORCHELASTIC_RUN_ID" in os.environ:
            # A torchrun that is killed tells nobody, and those that still start would wait for it.
            end_with_parent(signal.SIGTERM)
        with joined(member, processes.device, 60 * processes.timeout, _give_up), worker_faults():
            function(*arguments)
        return
    if processes.per_machine * processes.machines == 1:
        with worker_faults():
            function(*arguments)
        return
    host, port = ("127.0.0.1", 0) if processes.url == "auto" else _address(processes.url)
    # The store is here and not in the first process, so that it outlives every one of them.
    store = _served(port, processes.url) if processes.machine_rank == 0 else None
    size = processes.per_machine
    members = [
        Member(
            rank=processes.machine_rank * size + local_rank,
            world=processes.machines * size,
            local_rank=local_rank,
            local_size=size,
            host=host,
            port=store.port if store else port,
        )
        for local_rank in range(size)
    ]
    run_children(members, processes.device, 60 * processes.timeout, function, arguments, imports)


def _give_up(words: str) -> None:
    say(f"error: {words}")
    os._exit(1)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "tcp" or not parts.hostname or not port:
        raise UserError(f"--dist-url {url!r} is not of the form tcp://HOST:PORT.")
    return parts.hostname, port


def _served(port: int, url: str) -> dist.TCPStore:
    """The store through which all processes find each other, on a free port for port 0."""
    try:
        return dist.TCPStore("localhost", port, is_master=True, wait_for_workers=False)
    except RuntimeError as error:
        if port:
            raise UserError(
                f"Port {port} of --dist-url {url} cannot be used ({first_line(error)}): choose another one, or leave "
                "--dist-url out."
            ) from error
        raise UserError(
            f"No free port for the processes to meet on ({first_line(error)}): end other programs, or give --dist-url."
        ) from error
