"""The numbers of a run: a line of the log every period, and files written as Detectron2 does.

A full disk is one sentence that names the file.
"""

from __future__ import annotations

import logging
import resource
import sys
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

from maft.files import unwritable, writing

logger = logging.getLogger(__name__)


class ProgressLine(EventWriter):
    """Logs one line about the iterations since the last one: losses (medians), rate, time left, speed and memory.

    Speed and memory go into the event storage, too: ``images_per_second`` and ``peak_memory_mib``, which is what
    tensors took at most on a GPU, or the whole main process on the CPU.

    Args:
        max_iter: iterations of the whole training.
        batch: images of the global batch.
        period: iterations between two lines.
    """

    def __init__(self, max_iter: int, batch: int, period: int) -> None:
        self.max_iter, self.batch, self.period = max_iter, batch, period
        self._last = -1

    def write(self) -> None:
        storage = get_event_storage()
        # After the last iteration it is called once more, for what the evaluation has found.
        if storage.iter in (self._last, self.max_iter):
            return
        self._last = storage.iter
        losses = [f"{name} {self._median(storage, name):.4g}" for name in storage.histories() if "loss" in name]
        rate = f"lr {storage.history('lr').latest():.3g}" if "lr" in storage.histories() else ""
        memory = _peak_memory()
        storage.put_scalar("peak_memory_mib", memory, smoothing_hint=False)
        parts = [f"iteration {storage.iter + 1}/{self.max_iter}", *losses, rate, *self._times(storage)]
        logger.info("%s", "  ".join(filter(None, [*parts, f"peak {memory:.0f} MiB"])))

    def _times(self, storage: EventStorage) -> list[str]:
        if "time" not in storage.histories():
            # The first iterations are not counted: they pay for caches and autotuning.
            return []
        seconds = self._mean(storage, "time")
        left = storage.history("time").median(1000) * (self.max_iter - storage.iter - 1)
        storage.put_scalar("eta_seconds", left, smoothing_hint=False)
        storage.put_scalar("images_per_second", self.batch / seconds, smoothing_hint=False)
        data = f"data {self._mean(storage, 'data_time'):.3f} s"
        speed = [f"{seconds:.3f} s/it", f"{self.batch / seconds:.3g} images/s"]
        return [f"eta {timedelta(seconds=int(left))}", *speed, data]

    def _median(self, storage: EventStorage, name: str) -> float:
        return storage.history(name).median(storage.count_samples(name, self.period))

    def _mean(self, storage: EventStorage, name: str) -> float:
        return storage.history(name).avg(storage.count_samples(name, self.period))


def _peak_memory() -> float:
    """MiB."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


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
