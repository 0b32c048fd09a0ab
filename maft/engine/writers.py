"""The files of a run's numbers, written as Detectron2 does; a full disk is one sentence that names the file."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils.events import EventWriter

from maft.files import unwritable, writing


class NumberFiles(HookBase):
    """Writes the numbers of the event storage every ``period`` iterations, after the last one and at the end.

    Args:
        writers: by the file or folder that each writes.

    Raises:
        UserError: the disk is full; nothing is written any more.
    """

    def __init__(self, writers: Mapping[Path, EventWriter], period: int) -> None:
        self.writers, self.period = dict(writers), period
        self._threads_hook = threading.excepthook

    def before_train(self) -> None:
        threading.excepthook = self._thread_failed

    def after_step(self) -> None:
        iterations = self.trainer.iter + 1
        if iterations % self.period == 0 or iterations == self.trainer.max_iter:
            self._write()

    def after_train(self) -> None:
        try:
            # What the last evaluation has found.
            self._write()
            for file, writer in self.writers.items():
                with writing(file):
                    writer.close()
        finally:
            threading.excepthook = self._threads_hook

    def _write(self) -> None:
        writers = self.writers
        # Those of a run that ends because of one of them are not tried again.
        self.writers = {}
        for file, writer in writers.items():
            with writing(file):
                writer.write()
        self.writers = writers

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        # TensorBoard's thread hands its exception to whoever writes next.
        if not unwritable(failure.exc_value):
            self._threads_hook(failure)
