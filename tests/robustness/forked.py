"""Scripts run as their users run them, but forked from a process that has imported everything, which saves seconds."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 10.0

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["maft.engine.training", "maft.mining.run", "maft.predictor", "maft.conformance", "maft.data.preparation.panoptic"]
)


class Script:
    """One run of a script of the repository, in a process group of its own.

    Args:
        arguments: the script, by its path in the repository, and its command line.
        log: file that stdout and stderr go to.
        environment: what differs from this process' own.
        first: called in the child before the script, importable by its name.
    """

    def __init__(
        self, *arguments: object, log: Path, environment: dict[str, str], first: Callable[[], None] | None = None
    ) -> None:
        self.log = log
        self._process = _forks.Process(target=_run, args=([str(word) for word in arguments], log, environment, first))
        self._process.start()

    def status(self) -> int:
        """Waits for the end; negative for a signal, as subprocess has it."""
        self._process.join(300)
        assert not self._process.is_alive(), f"no end; so far it said:\n{self.words()}"
        return self._process.exitcode

    def kill(self, *, alone: bool) -> bool:
        """Kills the whole group, or the first process alone; false when it had ended before."""
        if not self._process.is_alive():
            return False
        try:
            (os.kill if alone else os.killpg)(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            # It has not made its group yet.
            os.kill(self._process.pid, signal.SIGKILL)
        return self.status() == -signal.SIGKILL

    def words(self) -> str:
        return self.log.read_text(errors="replace")

    def has_orphans(self) -> bool:
        """Whether any process of the group is left some seconds later."""
        end = time.monotonic() + _PATIENCE
        while left := _members(self._process.pid):
            if time.monotonic() > end:
                return bool(left)
            time.sleep(0.05)
        return False


def _members(group: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = stat.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(number) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def _run(arguments: list[str], log: Path, environment: dict[str, str], first: Callable[[], None] | None) -> None:
    os.setsid()
    # As in a process that a shell starts.
    multiprocessing.set_start_method(None, force=True)
    os.chdir(ROOT)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    script = str(ROOT / arguments[0])
    sys.argv = [script, *arguments[1:]]
    if first is not None:
        first()
    runpy.run_path(script, run_name="__main__")
