"""What all preparations share: their options, their counts, and that only one runs at a time."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from maft.errors import UserError


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


def run(prepare: Callable[[Options], list[Count]], root: Path, splits: Sequence[str], workers: int) -> list[Count]:
    """Runs a preparation, alone below ``root``, and returns what it left on disk.

    Raises:
        UserError: an option does not fit, ``root`` is no folder, or the preparation's own mistakes.
    """
    if workers < 1:
        raise UserError(f"--workers {workers}: give at least one process.")
    if not root.is_dir():
        raise UserError(
            f"The folder of all datasets {root} does not exist: create it, unpack the download there, or set "
            "--root or the environment variable DETECTRON2_DATASETS."
        )
    with only_one(root, prepare.__name__.removeprefix("prepare_")):
        return prepare(Options(root, tuple(dict.fromkeys(splits)), workers))


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
