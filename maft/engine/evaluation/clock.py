"""Progress of an evaluation, and where its time goes."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

logger = logging.getLogger(__name__)

_LOG_SECONDS = 5.0
# The first images pay for caches and autotuning; they do not count in the time per image.
_WARM_UP = 3


class Clock:
    """Measures loading, model and evaluators, and logs a line of progress every few seconds.

    Args:
        total: number of images of this process.
        device: of the model; work queued on a GPU is waited for, so that the right part is charged.
    """

    def __init__(self, total: int, device: str) -> None:
        self.total, self.device = total, device
        self.count = 0
        self._counted_from = 0
        self._seconds = {"data": 0.0, "model": 0.0, "evaluator": 0.0}

    def images(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The batches of a loader, one image each."""
        logged = start = time.perf_counter()
        batches = iter(loader)
        while True:
            with self.measuring("data"):
                batch = next(batches, None)
            if batch is None:
                break
            yield batch
            self.count += 1
            now = time.perf_counter()
            if now - logged > _LOG_SECONDS:
                logged = now
                left = datetime.timedelta(seconds=round((now - start) / self.count * (self.total - self.count)))
                logger.info("Evaluated %d of %d images (%s), %s left.", self.count, self.total, self._times(), left)
            if self.count == min(_WARM_UP, self.total - 1):
                self._seconds = dict.fromkeys(self._seconds, 0.0)
                self._counted_from = self.count
        logger.info("Evaluated %d images (%s).", self.count, self._times())

    @contextmanager
    def measuring(self, part: str) -> Iterator[None]:
        """Charges the time of a block to "data", "model" or "evaluator"."""
        start = time.perf_counter()
        yield
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        self._seconds[part] += time.perf_counter() - start

    def per_image(self) -> dict[str, float]:
        """Seconds per image of each part, without the first images."""
        images = max(1, self.count - self._counted_from)
        return {part: seconds / images for part, seconds in self._seconds.items()}

    def _times(self) -> str:
        return "per image: " + ", ".join(f"{part} {1000 * value:.1f} ms" for part, value in self.per_image().items())
