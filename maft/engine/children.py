"""The processes of a run that are started here, one by one, and what is said when one of them ends before its time."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any

from maft.data.workers import end_with_parent, worker_faults
from maft.engine.meeting import Member, joined
from maft.engine.stopping import forwarded
from maft.engine.watching import LostConnection
from maft.errors import UserError
from maft.registry import import_components

# Seconds in which the others may end by themselves after one has failed, and again after they were asked to.
_GRACE = 10.0
_STOPPED = {128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT}


def run_children(
    members: Sequence[Member],
    device: str,
    timeout: float,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    imports: Sequence[str],
) -> None:
    """Runs ``function(*arguments)`` in one new process for each member and waits for them; none is left behind.

    Raises:
        UserError: one raised it, failed or was killed.
        SystemExit: they stopped because they were asked to.
    """
    context = multiprocessing.get_context("spawn")
    mistakes = context.SimpleQueue()
    children = [
        context.Process(target=_child, args=(member, device, timeout, function, arguments, mistakes, tuple(imports)))
        for member in members
    ]
    try:
        for child in children:
            child.start()
        with forwarded(children) as request:
            while not any(child.exitcode for child in children):
                running = [child.sentinel for child in children if child.exitcode is None]
                if not running:
                    return
                wait(running)
            # When one process stops, the others fail in their next exchange, or stop too.
            _join(children)
        failures = {member.rank: child for member, child in zip(members, children) if child.exitcode}
        _report(failures, mistakes, request.signal)
    finally:
        _end(children)


def _child(
    member: Member,
    device: str,
    timeout: float,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    mistakes: Any,
    imports: Sequence[str],
) -> None:
    end_with_parent(signal.SIGTERM)

    def give_up(words: str) -> None:
        mistakes.put((member.rank, False, words))
        os._exit(1)

    try:
        with joined(member, device, timeout, give_up), worker_faults():
            import_components(imports)
            function(*arguments)
    except UserError as error:
        mistakes.put((member.rank, isinstance(error, LostConnection), str(error)))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    # All is done. A thread of the communication backend that asks for the interpreter while it shuts down aborts the
    # process now and then, which would make a success look like a failure.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _join(children: Sequence[SpawnProcess]) -> None:
    end = time.monotonic() + _GRACE
    for child in children:
        child.join(max(0.0, end - time.monotonic()))


def _end(children: Sequence[SpawnProcess]) -> None:
    """Ends whoever still runs; a stopped process only hears of being killed."""
    running = [child for child in children if child.is_alive()]
    for child in running:
        child.terminate()
    _join(running)
    for child in running:
        child.kill()
        child.join()


def _report(failures: dict[int, SpawnProcess], mistakes: Any, asked: int) -> None:
    """Raises what tells the user most: a process' own mistake, that it was killed or failed, or whom it lost."""
    said = []
    while not mistakes.empty():
        said.append(mistakes.get())
    own = [words for _, lost, words in said if not lost]
    if own:
        raise UserError(own[0])
    statuses = {rank: child.exitcode or 0 for rank, child in failures.items()}
    for rank, status in statuses.items():
        if status < 0 and status not in _STOPPED:
            raise UserError(
                f"Process {rank} (pid {failures[rank].pid}) was killed ({_signal(-status)}), as happens when memory "
                "runs out: start again, a training with --resume."
            )
    for status in statuses.values():
        if status in _STOPPED:
            # Children are asked by SIGTERM, whatever this process was asked by.
            raise SystemExit(128 + (asked or abs(status) % 128))
    # The traceback of a process that put nothing into words is why the others lost it.
    silent = statuses.keys() - {rank for rank, _, _ in said}
    if said and not silent:
        raise UserError(said[0][2])
    rank, status = next((rank, status) for rank, status in statuses.items() if rank in silent)
    raise UserError(f"Process {rank} (pid {failures[rank].pid}) failed with status {status}: its own message is above.")


def _signal(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
