"""Who of a run's processes is waited for, said after half a minute instead of never.

A process that waits in an exchange cannot speak. A thread of it leaves a sign of life and how far the process has come
in the store that all of them share, and reads those of the others.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from detectron2.utils import comm

from maft.errors import UserError

SPEAK_AFTER = 30.0
_BEAT = 1.0
_LOOK_EVERY = 5


class LostConnection(UserError):
    """Another process is the cause; what that one says matters more."""


@dataclass
class _Progress:
    """How many places this process has passed, all processes the same ones, and the last of them."""

    passed: int = 0
    place: str = "the start"
    since: float = field(default_factory=time.monotonic)


_progress = _Progress()


def passing(place: str) -> None:
    """Notes how far this process is; every process passes the same places in the same order."""
    _progress.passed, _progress.place, _progress.since = _progress.passed + 1, place, time.monotonic()


def meet(place: str) -> None:
    """Waits for all processes at a place."""
    passing(place)
    comm.synchronize()


def say(words: str) -> None:
    """Writes a line to stderr: only the main process logs to the console."""
    print(words, file=sys.stderr, flush=True)


class Watch:
    """Sign of life of one process in ``store``, and an eye on those of the others.

    Args:
        store: a connection of its own, since a store is locked while somebody waits at it.
        rank, world: this process, and how many there are.
        timeout: seconds after which a process that waits for others is ended.
        give_up: ends this process; is called with the sentence that says why.
    """

    def __init__(
        self, store: dist.Store, rank: int, world: int, timeout: float, give_up: Callable[[str], None]
    ) -> None:
        self.store, self.rank, self.world, self.timeout, self.give_up = store, rank, world, timeout, give_up
        self.speak_after = min(SPEAK_AFTER, timeout / 2)
        self.name = f"process {rank} (pid {os.getpid()} on {socket.gethostname()})"
        self._keys = [f"sign_{other}" for other in range(world)]
        self._seen: dict[int, tuple[list[Any], float]] = {}
        self._beats = 0
        self._ended = threading.Event()

    def wait_for_all(self) -> None:
        """Returns when every process is there.

        Raises:
            UserError: two are the same one, or they do not agree on how many there are.
            TimeoutError: some never came; the message names them.
        """
        if self.store.add(f"number_{self.rank}", 1) > 1:
            raise UserError(f"There are two processes {self.rank}: give each machine its own --machine-rank (or rank).")
        agreed = int(self.store.compare_set("world", "", str(self.world)))
        if agreed != self.world:
            raise UserError(
                f"{self.name} was started as one of {self.world}, another one as one of {agreed}: start all with the "
                "same numbers of machines and processes."
            )
        self._sign("alive")
        start, said = time.monotonic(), False
        here = self.store.add("here", 1)
        while here < self.world:
            time.sleep(0.1)
            here = self.store.add("here", 0)
            waited = time.monotonic() - start
            if here < self.world and waited > (self.timeout if said else self.speak_after):
                missing = [rank for rank, key in enumerate(self._keys) if not self.store.check([key])]
                names = f"{_processes(missing)} of {self.world}"
                if said:
                    raise TimeoutError(f"{names} did not start within {_minutes(self.timeout)}")
                said = True
                if self.rank == min(set(range(self.world)) - set(missing)):
                    say(f"Waiting for {names} to start, {waited:.0f} s so far: {self._until()}.")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Gives signs and watches while the block runs; how the block ends is what the others read."""
        thread = threading.Thread(target=self._run, daemon=True)
        _progress.since = time.monotonic()
        thread.start()
        how = "finished"
        try:
            yield
        except LostConnection:
            how = "lost"
            raise
        except Exception:
            how = "failed"
            raise
        finally:
            self._ended.set()
            thread.join()
            with suppress(RuntimeError):
                self._sign(how)

    def gone(self) -> str:
        """Names the processes that failed or give no sign any more; empty when all do. Takes some seconds."""
        try:
            first = self._signs()
            failed = [sign[-1] for sign in first if sign[0] == "failed"]
            if not failed:
                time.sleep(3 * _BEAT)
                failed = [
                    new[-1] for old, new in zip(first, self._signs())
                    if new[0] == "failed" or (new[0] == "alive" and new == old)
                ]  # fmt: skip
        except RuntimeError:
            return "the process that brought them together"
        return ", ".join(name for name in failed if name != self.name)

    def _sign(self, state: str) -> None:
        self._beats += 1
        self.store.set(
            self._keys[self.rank],
            json.dumps([state, self._beats, _progress.passed, _progress.place, self.name]),
        )

    def _signs(self) -> list[list[Any]]:
        return [json.loads(text) for text in self.store.multi_get(self._keys)]

    def _run(self) -> None:
        waiting_since, said = 0.0, ""
        while not self._ended.wait(_BEAT):
            try:
                self._sign("alive")
                if self._beats % _LOOK_EVERY:
                    continue
                behind = self._behind()
            except RuntimeError:
                self._abandoned()
                return
            now = time.monotonic()
            if not behind:
                waiting_since, said = 0.0, ""
                continue
            waiting_since = waiting_since or now
            words = ", ".join(behind.values())
            if now - waiting_since > self.timeout - self.speak_after:
                self.give_up(
                    f"Waited {_minutes(self.timeout)} for {words}: see there what holds it up, and start again."
                )
            if words != said and self.rank == min(set(range(self.world)) - set(behind)):
                said = words
                say(f"Waiting for {words}: {self._until()}.")

    def _behind(self) -> dict[int, str]:
        """What is to be said of each process that this one has waited for; empty while it does not wait."""
        now = time.monotonic()
        for rank, sign in enumerate(self._signs()):
            if rank not in self._seen or self._seen[rank][0] != sign:
                self._seen[rank] = (sign, now)
        if now - _progress.since < self.speak_after:
            return {}
        behind = {}
        for rank, ((state, _, passed, place, name), since) in self._seen.items():
            if state != "alive":
                continue
            if now - since >= self.speak_after:
                behind[rank] = f"{name}, which gives no sign of life (stopped, or its machine is gone)"
            elif passed < _progress.passed:
                behind[rank] = f"{name}, which is still at {place}"
        return behind

    def _abandoned(self) -> None:
        """Without the store, whoever started this process is gone: what can be saved is saved."""
        if not self._ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            if not self._ended.wait(self.speak_after):
                self.give_up("The program that started the processes is gone: start again, a training with --resume.")

    def _until(self) -> str:
        return f"the run ends after {_minutes(self.timeout)} of waiting (--timeout)"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g} minutes"


def _processes(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"process{'es' if len(ranks) > 1 else ''} {shown}"
