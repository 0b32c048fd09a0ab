"""Replays the random draws that an official release made while a case was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from golden.case import GoldenCase


class RecordedDraws:
    """Hands out ``in/rand/NNN_kind`` in call order; a draw of another kind or size than recorded is an error."""

    def __init__(self, case: GoldenCase) -> None:
        recorded = case.group("in/rand")
        in_order = sorted(recorded, key=lambda name: int(name.split("_", 1)[0]))
        self._left = [(name.split("_", 1)[1], recorded[name]) for name in in_order]

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """In the with block they take the place of what matching and point sampling draw."""
        with (
            patch.object(torch, "rand", self.rand),
            patch.object(torch, "randperm", self.randperm),
            patch("maft.matching.random_integers", self.integers),
        ):
            yield

    def _next(self, kind: str, size: tuple[int, ...]) -> Tensor:
        if not self._left:
            raise AssertionError(f"a draw of {kind} {size} was not recorded")
        recorded, value = self._left.pop(0)
        if recorded != kind or tuple(value.shape) != size:
            raise AssertionError(f"drew {kind} {size}, recorded was {recorded} {tuple(value.shape)}")
        return value

    def rand(self, *size: int, device: torch.device) -> Tensor:
        return self._next("rand", size).to(device)

    def randperm(self, count: int, device: torch.device) -> Tensor:
        return self._next("randperm", (count,)).to(device)

    def integers(self, below: Tensor) -> Tensor:
        # The official loop draws only where there is something to draw from.
        drawn = [self._next("randint", (1,)) if possible else below.new_zeros(1) for possible in (below > 0).tolist()]
        return torch.cat(drawn).to(below) if drawn else torch.zeros_like(below)
