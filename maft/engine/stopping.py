"""Signals that ask a run to stop: SIGTERM (SLURM's warning before it kills) and Ctrl-C."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any, NoReturn

from detectron2.utils import comm

_ASKED = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Notes that this process was asked to stop, so that a training step is finished and saved first.

    Args:
        answer: a line that the main process writes to stderr when it is asked.

    Attributes:
        signal: number of the signal, 0 while there was none. A second Ctrl-C interrupts at once.
    """

    def __init__(self, answer: str = "") -> None:
        self.answer = answer
        self.signal = 0
        self._interrupted = False

    def note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        if not self.signal:
            _write(self.answer)
        self._interrupted |= number == signal.SIGINT
        self.signal = number

    def noted(self) -> AbstractContextManager[None]:
        """Notes signals while the block runs; outside the main thread Python gives none to note."""
        return _handled_by(self.note)


@contextmanager
def stopping_at_once(answer: str) -> Iterator[None]:
    """Ends the process when it is asked to stop while the block runs, in which nothing is lost.

    Args:
        answer: a line that the main process writes to stderr: how to go on.

    Raises:
        SystemExit: with status 128 + signal.
    """
    said: list[int] = []

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        if not said:
            _write(answer)
        said.append(number)
        raise SystemExit(128 + said[0])

    with _handled_by(stop):
        yield


def again(*more: str) -> str:
    """The command that started this process with more arguments, unless it had them; in a notebook only these."""
    program, *given = sys.argv
    if os.path.basename(program) == "maft":
        words = ["maft"]
    elif os.path.basename(program) == "__main__.py" and os.path.basename(os.path.dirname(program)) == "maft":
        words = ["python", "-m", "maft"]
    elif program.endswith(".py") and not program.endswith("__main__.py"):
        words = ["python", program]
    else:
        return " ".join(more)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # Its own options are not told to the processes that it starts.
        words = ["torchrun", "...", *words[1:]]
    words += [*given, *(() if more and more[0] in given else more)]
    return shlex.join(words)


def _write(line: str) -> None:
    # Not by print: the signal may have come while it was writing.
    if line and comm.is_main_process():
        os.write(2, f"\n{line}\n".encode())


@contextmanager
def forwarded(processes: Sequence[Any]) -> Iterator[StopRequest]:
    """Passes requests to stop on to child processes while the block waits for them; gives what was asked for.

    Raises:
        KeyboardInterrupt: at a second Ctrl-C, which ends them at once.
    """
    request = StopRequest()

    def pass_on(number: int, frame: FrameType | None) -> None:
        try:
            request.note(number, frame)
        except KeyboardInterrupt:
            send(signal.SIGKILL)
            raise
        send(signal.SIGTERM)

    def send(number: int) -> None:
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    with _handled_by(pass_on):
        yield request


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _ASKED}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
