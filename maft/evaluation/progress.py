"""Progress of an evaluation, and where its time goes."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.logger import log_every_n_seconds

from maft.checkpoint.io import read_metadata, read_state_dict, write_safetensors
from maft.errors import UserError

logger = logging.getLogger(__name__)

# Least time between two savings of a state, and between two lines of progress.
SAVE_SECONDS = 60.0
_LOG_SECONDS = 5
# The first images pay for caches and autotuning; they do not count in the time per image.
_WARM_UP = 3


class EvaluationState:
    """One process' counts and position on disk, written as one file, whole or not at all.

    Args:
        path: the file.
        evaluators: by name; each has ``state()`` and ``load_state()``.
        fingerprint: of everything the counts depend on; called once, when it is first needed.
    """

    def __init__(self, path: Path, evaluators: Mapping[str, Any], fingerprint: Callable[[], str]) -> None:
        self.path, self.evaluators = path, evaluators
        # Hashing large weights takes seconds, which short runs are spared.
        self._fingerprint = functools.cache(fingerprint)
        self._written = time.monotonic()

    def restore(self) -> int:
        """Loads the counts of an interrupted run and returns how many images they hold; 0 when there is none.

        Raises:
            UserError: the file belongs to another model, dataset or protocol, or is damaged.
        """
        if not self.path.is_file():
            logger.info("No half-finished evaluation in %s: starting with the first image.", self.path.parent)
            return 0
        tensors, metadata = read_state_dict(self.path), read_metadata(self.path)
        if metadata.get("fingerprint") != self._fingerprint():
            raise UserError(
                f"{self.path} is the half-finished evaluation of another model, dataset or protocol: delete it, or "
                "set TEST.RESUME False."
            )
        for name, evaluator in self.evaluators.items():
            prefix = f"{name}/"
            evaluator.load_state({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        return int(metadata["position"])

    def save_if_due(self, position: int) -> None:
        """Writes the counts of the first ``position`` images unless that was done a moment ago."""
        if time.monotonic() - self._written < SAVE_SECONDS:
            return
        tensors = {
            f"{name}/{key}": value
            for name, evaluator in self.evaluators.items()
            for key, value in evaluator.state().items()
        }
        write_safetensors(self.path, tensors, {"position": str(position), "fingerprint": self._fingerprint()})
        self._written = time.monotonic()

    def discard(self) -> None:
        """Removes the file, once the evaluation is complete."""
        self.path.unlink(missing_ok=True)


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
        start = time.perf_counter()
        batches = iter(loader)
        while True:
            with self.measuring("data"):
                batch = next(batches, None)
            if batch is None:
                break
            yield batch
            self.count += 1
            left = round((time.perf_counter() - start) / self.count * (self.total - self.count))
            line = f"Evaluated {self.count} of {self.total} images ({self._times()}), {timedelta(seconds=left)} left."
            log_every_n_seconds(logging.INFO, line, _LOG_SECONDS)
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
