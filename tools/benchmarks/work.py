"""What one piece of work of `benchmarks.whole` is: how it is prepared, run and divided into stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Work:
    """A piece of work that is ready to run, on seeded inputs.

    Attributes:
        setting: sizes and counts, for the table.
        run: does it once; its outputs by name are what checkouts have to agree on.
        model: what it runs, whose weights every checkout is given; None where there are none.
        stages: parts that are timed as well, by name: an object, and the method of it that is called.
    """

    setting: str
    run: Callable[[], Mapping[str, Tensor]]
    model: nn.Module | None = None
    stages: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
