"""The command line that all preparation scripts share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maft.data.catalog import datasets_root
from maft.errors import ToolParser, UserError, run_tool


@dataclass(frozen=True)
class Options:
    """What a preparation is asked to do.

    Attributes:
        root: the folder of all datasets.
        splits: which splits, of ``train`` and ``val``.
        workers: number of processes; 1 works in this process.
    """

    root: Path
    splits: tuple[str, ...]
    workers: int


@dataclass(frozen=True)
class Count:
    """How many files of one kind a preparation left on disk.

    Attributes:
        what: the kind, such as ``coco_stuff_val label maps``.
        found: how many.
        published: how many there should be; None when no figure is published.
        without_labels: images left out because no pixel of them is labelled.
    """

    what: str
    found: int
    published: int | None = None
    without_labels: int = 0

    def __str__(self) -> str:
        text = f"{self.what}: {self.found}"
        if self.published is not None:
            text += " (as published)" if self.found == self.published else f" (PUBLISHED: {self.published})"
        if self.without_labels:
            text += f", {self.without_labels} images without any labelled pixel left out"
        return text


def main(prepare: Callable[[Options], list[Count]], description: str, arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, runs a preparation and prints the counts."""
    parser = ToolParser(
        description=description
    )  # fmt: skip
    parser.add_argument(
        "--root", type=Path, default=datasets_root(), help="folder of all datasets (default %(default)s)"
    )
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=("train", "val"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")
    given = parser.parse_args(arguments)
    if given.workers < 1:
        raise UserError(f"--workers {given.workers}: give at least one process.")
    if not given.root.is_dir():
        raise UserError(
            f"The folder of all datasets {given.root} does not exist: create it, unpack the download there, or set "
            "--root or the environment variable DETECTRON2_DATASETS."
        )
    for count in prepare(Options(given.root, tuple(dict.fromkeys(given.splits)), given.workers)):
        print(count)
    return 0


def run(prepare: Callable[[Options], list[Count]], description: str | None) -> None:
    """Entry of the scripts in ``datasets/``."""
    run_tool(lambda: main(prepare, description or ""))
