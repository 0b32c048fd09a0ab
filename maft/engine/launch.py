"""Starts the processes of a run: one, several on this machine, several machines, or those that torchrun started."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from maft.engine.stopping import forwarded
from maft.errors import UserError, first_line
from maft.registry import import_components

_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Processes:
    """Which processes a run consists of.

    Attributes:
        device: "cuda" (one GPU per process) or "cpu".
        per_machine: processes on each machine.
        machines, machine_rank: number of machines, and which this one is.
        url: where the processes meet, such as tcp://10.0.0.1:29500; "auto" finds a free port of this machine.
    """

    device: str
    per_machine: int = 1
    machines: int = 1
    machine_rank: int = 0
    url: str = "auto"

    def __post_init__(self) -> None:
        if self.machines < 1 or not 0 <= self.machine_rank < self.machines:
            raise UserError(
                f"--machine-rank {self.machine_rank} does not go with --num-machines {self.machines}: "
                "ranks count from 0 to the number of machines minus 1."
            )
        if self.machines > 1 and self.url == "auto":
            raise UserError("Several machines need --dist-url tcp://HOST:PORT, an address of the first machine.")


def choose_processes(
    *, device: str, num_gpus: int | None = None, num_processes: int | None = None, **machines: Any
) -> Processes:
    """Turns command line options into processes.

    Args:
        device: ``MODEL.DEVICE``.
        num_gpus: GPUs per machine; 0 means the CPU, None one GPU where ``device`` asks for it and there is one.
        num_processes: processes per machine on the CPU.
        machines: ``machines``, ``machine_rank`` and ``url`` of `Processes`.

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
        return Processes("cuda", num_gpus, **machines)
    return Processes("cpu", num_processes or 1, **machines)


def launch(
    function: Callable[..., Any], arguments: tuple[Any, ...], processes: Processes, *, imports: Sequence[str] = ()
) -> None:
    """Runs ``function(*arguments)`` in every process of the run and waits for them.

    Under torchrun or a compatible launcher this process is one of them already and ``processes`` only names the device.

    Args:
        imports: ``IMPORTS`` of the config, which a process that is started here has to import again.

    Raises:
        UserError: the first one raised in any process; or no port is free, or the processes cannot meet.
    """
    if all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")):
        local_rank = int(os.environ["LOCAL_RANK"])
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        _join(
            processes.device, "env://", int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), local_rank, local_size
        )
        try:
            function(*arguments)
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            raise UserError(
                f"Process {os.environ['RANK']} lost the connection to another one, whose own message says why."
            ) from error
        finally:
            _leave()
        return
    if processes.per_machine * processes.machines == 1:
        function(*arguments)
        return
    url = _free_address() if processes.url == "auto" else processes.url
    if processes.url != "auto" and processes.machine_rank == 0:
        _check_address(url)
    # It announces every process that it ends after one has failed, beside the sentence that says why.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    mistakes = mp.get_context("spawn").SimpleQueue()
    context = mp.start_processes(
        _process,
        args=(function, arguments, processes, url, mistakes, tuple(imports)),
        nprocs=processes.per_machine,
        join=False,
        start_method="spawn",
    )
    try:
        with forwarded(context.processes):
            while not context.join():
                pass
    except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
        # When one process stops, the others fail in their next exchange: the cause is what the user should read.
        if not mistakes.empty():
            raise UserError(mistakes.get()) from error
        status = getattr(error, "exit_code", 0)
        if status in (-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT):
            raise SystemExit(128 + signal.SIGTERM if status < 0 else status) from None
        raise


def _process(
    local_rank: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    processes: Processes,
    url: str,
    mistakes: Any,
    imports: Sequence[str],
) -> None:
    world = processes.machines * processes.per_machine
    rank = processes.machine_rank * processes.per_machine + local_rank
    if sys.platform == "linux":
        # Should the process that started this one be killed, this one is asked to stop (PR_SET_PDEATHSIG).
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    try:
        _join(processes.device, url, rank, world, local_rank, processes.per_machine)
        import_components(imports)
        function(*arguments)
    except UserError as error:
        mistakes.put(str(error))
        sys.exit(1)
    finally:
        _leave()
    # All is done. A thread of the communication backend that asks for the interpreter while it shuts down aborts the
    # process now and then, which would make a success look like a failure.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _join(device: str, url: str, rank: int, world: int, local_rank: int, local_size: int) -> None:
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"Process {local_rank} of this machine has no GPU (there are {torch.cuda.device_count()}): "
                "start fewer processes, or set MODEL.DEVICE cpu."
            )
        torch.cuda.set_device(local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))
    try:
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo", init_method=url, world_size=world, rank=rank, timeout=_TIMEOUT
        )
    except (RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"The {world} processes cannot meet at {url} ({reason}): check --dist-url.") from error
    comm.create_local_process_group(local_size)
    comm.synchronize()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _free_address() -> str:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    except OSError as error:
        raise UserError(
            f"No free port for the processes to meet on ({error.strerror}): end other programs, or give --dist-url."
        ) from error


def _check_address(url: str) -> None:
    """Refuses an address that is not one, or whose port is taken, before processes wait for it in vain."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "tcp" or not parts.hostname or port is None:
        raise UserError(f"--dist-url {url!r} is not of the form tcp://HOST:PORT.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            reason = "is already in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise UserError(
                f"Port {port} of --dist-url {reason}: choose another one, or leave --dist-url out."
            ) from error
