"""Signals that ask a run to stop: SIGTERM (SLURM's warning before it kills) and Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

_ASKED = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Notes that this process was asked to stop, so that a training step is finished and saved first.

    Attributes:
        signal: number of the signal, 0 while there was none. A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._interrupted = False

    def note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        self.signal = number

    def noted(self) -> AbstractContextManager[None]:
        """Notes signals while the block runs; outside the main thread Python gives none to note."""
        return _handled_by(self.note)


@contextmanager
def forwarded(processes: Sequence[Any]) -> Iterator[StopRequest]:
    """Passes requests to stop on to child processes while the block waits for them; gives what was asked for."""
    request = StopRequest()

    def pass_on(number: int, frame: FrameType | None) -> None:
        request.signal = number
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

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
