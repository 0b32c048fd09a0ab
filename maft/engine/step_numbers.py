"""The numbers of a training step, on their way from the device: nobody waits for the step that is still computing."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from maft.layers.devices import sent
from maft.layers.distributed import rank, world_size

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Step:
    """What all processes know of one iteration.

    Attributes:
        values: by name, the mean over the processes.
        waited: seconds for which the slowest process waited for its data.
        signal: that asked any of the processes to stop, the same in all of them; 0 for none.
    """

    iteration: int
    values: dict[str, float]
    waited: float
    signal: int


class StepNumbers:
    """Queue of iterations whose numbers are still on the device; each costs one small reduction over the processes.

    Args:
        device: of the numbers; they are copied to the host while it goes on.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._coming: deque[tuple[int, list[str], Tensor, torch.cuda.Event | None]] = deque()

    def put(self, iteration: int, values: Mapping[str, Tensor], waited: float, asked: int) -> None:
        """Adds an iteration; in every process, with the same names.

        Args:
            values: scalars on the device.
            waited: seconds for which this process waited for its data.
            asked: the signal that asked this process to stop, 0 for none.
        """
        processes = world_size()
        own = [float(asked == number) for number in _SIGNALS] + [0.0] * processes
        own[len(_SIGNALS) + rank()] = waited
        numbers = torch.stack([value.detach().float() for value in values.values()])
        row = torch.cat([numbers / processes, sent(torch.tensor(own), self.device)])
        if processes > 1:
            dist.all_reduce(row)
        event = None
        if self.device.type == "cuda":
            row = torch.empty(row.shape, dtype=row.dtype, pin_memory=True).copy_(row, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._coming.append((iteration, list(values), row, event))

    def take(self, behind: int = 0) -> Iterator[Step]:
        """The iterations that were added, oldest first, but for the last ``behind`` ones."""
        while len(self._coming) > behind:
            iteration, names, row, event = self._coming.popleft()
            if event is not None:
                event.synchronize()
            numbers = row.tolist()
            asked, waited = numbers[len(names) : len(names) + len(_SIGNALS)], numbers[len(names) + len(_SIGNALS) :]
            stop = max(number if count else 0 for number, count in zip(_SIGNALS, asked))
            yield Step(iteration, dict(zip(names, numbers)), max(waited), int(stop))
