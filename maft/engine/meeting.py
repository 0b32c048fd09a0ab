"""How the processes of a run find each other, and how each of them leaves."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.utils import comm

from maft.engine.stopping import StopRequest
from maft.engine.watching import SPEAK_AFTER, LostConnection, Watch, meet, say
from maft.errors import UserError, first_line

_CONNECTION = timedelta(seconds=20)


@dataclass(frozen=True)
class Member:
    """One process of a run.

    Attributes:
        rank, world: which one of how many.
        local_rank, local_size: the same on its machine.
        host, port: address of the store through which all find each other.
        attempt: how often the whole run was started before, with the same store (``torchrun --max-restarts``).
        hosts_store: the store is this process' own.
    """

    rank: int
    world: int
    local_rank: int
    local_size: int
    host: str
    port: int
    attempt: int = 0
    hosts_store: bool = False

    @classmethod
    def from_environment(cls) -> Member | None:
        """This process as torchrun or a compatible launcher started it; None when none did."""
        variables = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        if not all(name in os.environ for name in variables):
            return None
        try:
            rank, world, local_rank, port = (int(os.environ[name]) for name in variables if name != "MASTER_ADDR")
            local_size = int(os.environ.get("LOCAL_WORLD_SIZE", world))
            attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        except ValueError as error:
            raise UserError(f"One of the variables {', '.join(variables)} is no number ({error}).") from error
        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        host = os.environ["MASTER_ADDR"]
        return cls(rank, world, local_rank, local_size, host, port, attempt, rank == 0 and not served)


@contextmanager
def joined(member: Member, device: str, timeout: float, give_up: Callable[[str], None]) -> Iterator[None]:
    """Makes this process one of the run's while the block runs.

    Args:
        device: "cuda" or "cpu".
        timeout: seconds that a process waits for others, when they start and in every exchange.
        give_up: ends the process, with the sentence that says why.

    Raises:
        UserError: there is no GPU for it, or the processes do not find each other.
        LostConnection: another process ended before its time.
    """
    _choose_device(member, device)
    # Addresses that an earlier attempt left in the store would be taken for those of this one.
    prefix = f"attempt_{member.attempt}"
    store, for_watch = _connect(member, timeout)
    watch = Watch(dist.PrefixStore(f"{prefix}/watch", for_watch), member.rank, member.world, timeout, give_up)
    where = f"{member.host}:{member.port}"
    try:
        watch.wait_for_all()
    except TimeoutError as error:
        raise UserError(f"The processes cannot meet at {where}: {error}; start them all, with one address.") from error
    with watch.watching():
        try:
            dist.init_process_group(
                "nccl" if device == "cuda" else "gloo",
                store=dist.PrefixStore(f"{prefix}/group", store),
                world_size=member.world,
                rank=member.rank,
                # Later than the watch, which can say whom it waits for.
                timeout=timedelta(seconds=timeout + 60),
            )
            comm.create_local_process_group(member.local_size)
            meet("the first meeting")
            yield
            # So that nobody takes an early end for a failure.
            meet("the end")
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
                raise
            raise LostConnection(_loss(watch, error)) from error
    if dist.is_initialized():
        dist.destroy_process_group()


def _choose_device(member: Member, device: str) -> None:
    if device == "cuda":
        if member.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"Process {member.local_rank} of this machine has no GPU (there are {torch.cuda.device_count()}): "
                "start fewer processes, or set MODEL.DEVICE cpu."
            )
        torch.cuda.set_device(member.local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // member.local_size))


def _connect(member: Member, timeout: float) -> tuple[dist.Store, dist.Store]:
    """Two connections to the store; while somebody waits at one, nobody else can use it."""
    where = f"{member.host}:{member.port}"
    try:
        first = _store(member.host, member.port, is_server=True) if member.hosts_store else None
        _wait_for_answer(member, timeout)
        return first or _store(member.host, member.port), _store(member.host, member.port)
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        raise UserError(
            f"The {member.world} processes cannot meet at {where} ({first_line(error)}): start process 0 there, check "
            "the address (--dist-url, or torchrun's) and that no firewall is between."
        ) from error


def _wait_for_answer(member: Member, timeout: float) -> None:
    """Returns when something answers at the address; PyTorch's own waiting fills the screen with stack traces."""
    start, said = time.monotonic(), False
    while True:
        try:
            socket.create_connection((member.host, member.port), timeout=5).close()
            return
        except socket.gaierror:
            raise
        except OSError:
            waited = time.monotonic() - start
            if waited > timeout:
                raise
            if waited > min(SPEAK_AFTER, timeout / 2) and not said:
                said = True
                say(f"Process {member.rank} waits for process 0 at {member.host}:{member.port}, {waited:.0f} s so far.")
            time.sleep(0.2)


def _store(host: str, port: int, is_server: bool = False) -> dist.TCPStore:
    return dist.TCPStore(host, port, is_master=is_server, wait_for_workers=False, timeout=_CONNECTION)


def _loss(watch: Watch, error: RuntimeError) -> str:
    """The sentence of a process that lost others."""
    # Whoever started the processes may ask this one to stop before it has found out why.
    with StopRequest().noted():
        gone = watch.gone()
    if gone:
        return f"{watch.name} ends because of {gone}, which ended: its own message, if it left one, says why."
    return f"{watch.name} cannot go on with the others ({first_line(error)}): see what they say, and start again."
