"""The command line that all preparation scripts share."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def run(prepare: Callable[[Options], list[Count]], description: str | None) -> None:
    """Entry of the scripts in ``datasets/``: parses the command line, runs a preparation and prints the counts."""
    run_tool(lambda: _main(prepare, description or ""))


def _main(prepare: Callable[[Options], list[Count]], description: str) -> None:
    parser = ToolParser(description=description)
    parser.add_argument(
        "--root", type=Path, default=datasets_root(), help="folder of all datasets (default %(default)s)"
    )
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=("train", "val"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")
    given = parser.parse_args()
    if given.workers < 1:
        raise UserError(f"--workers {given.workers}: give at least one process.")
    if not given.root.is_dir():
        raise UserError(
            f"The folder of all datasets {given.root} does not exist: create it, unpack the download there, or set "
            "--root or the environment variable DETECTRON2_DATASETS."
        )
    with only_one(given.root, prepare.__name__.removeprefix("prepare_")):
        counts = prepare(Options(given.root, tuple(dict.fromkeys(given.splits)), given.workers))
    for count in counts:
        print(count)


@contextmanager
def only_one(root: Path, name: str) -> Iterator[None]:
    """Keeps out a second preparation of the same set, which would take the first one's unfinished files for leftovers.

    Raises:
        UserError: another process prepares this set below ``root``, or ``root`` cannot be written to.
    """
    path = root / f".prepare_{name}.lock"
    try:
        file = path.open("a")
    except OSError as error:
        raise UserError(f"Cannot write to folder {root}: {error.strerror}; choose another one with --root.") from error
    with file:
        try:
            # A lock of this kind ends with its process, however that ends, and is not inherited by its workers.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise UserError(
                f"Another process prepares {name} in {root} at this moment: wait until it has finished, or end it."
            ) from error
        yield
