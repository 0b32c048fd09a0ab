"""The miniature world for zero-shot training: label maps in which the unseen classes are ignored.

They are derived from the drawn masks, once for each unseen split, beside them: ``train/masks_seen_<split>``.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from maft.data.catalog import TABLE, DatasetRow, datasets_root
from maft.data.reading import read_map
from maft.errors import UserError
from maft.miniature.dataset import DEFAULT_COUNTS, materialise, whole_folder

logger = logging.getLogger(__name__)


def ensure_miniature(
    root: str | os.PathLike[str] | None = None, counts: Mapping[str, int] | None = None, *, progress: bool = False
) -> Path:
    """Draws the miniature world unless it is there, with the label maps of every unseen split.

    Args:
        root: its folder, default ``$DETECTRON2_DATASETS/miniature``.
        counts: images of each split, ``train`` and ``val``; what is already drawn keeps its number.
        progress: show progress bars.

    Returns:
        The folder.

    Raises:
        UserError: the folder holds something else or cannot be written to.
    """
    folder = datasets_root() / "miniature" if root is None else Path(root)
    with _alone(folder):
        for split, default in DEFAULT_COUNTS.items():
            _ensure_split(folder, split, (counts or {}).get(split, default), progress)
        write_seen_masks(folder)
    return folder


def draw_at_first_use(row: DatasetRow) -> None:
    """Draws what a dataset of the miniature world consists of unless it is there, in one process while others wait.

    Raises:
        UserError: its folder holds something else or cannot be written to.
    """
    folder = row.root / "miniature"
    # A folder of all datasets that a variable names should be there: it may be misspelt.
    if (row.root / row.labels).is_dir() or (os.environ.get("DETECTRON2_DATASETS") and not row.root.is_dir()):
        return
    with _alone(folder):
        if not (folder / row.split / "world.json").is_file():
            count = DEFAULT_COUNTS[row.split]
            logger.warning("Drawing %d %s scenes of the miniature world into %s, once.", count, row.split, folder)
            _ensure_split(folder, row.split, count, progress=False)
        if row.seen_only:
            _write_seen(row, folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits for other processes that draw into ``folder``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".drawing.lock").open("a")
    except OSError as error:
        raise UserError(
            f"Cannot write the miniature world to {folder}: {error.strerror}; set DETECTRON2_DATASETS to another place."
        ) from error
    with file:
        # A lock of this kind ends with its process, however that ends.
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _ensure_split(folder: Path, split: str, count: int, progress: bool) -> None:
    if not (folder / split / "world.json").is_file():
        materialise(folder, split, count, progress=progress)


def write_seen_masks(folder: Path) -> None:
    """Derives the label maps of every unseen split from ``train/masks``; each folder appears whole or not at all."""
    for row in TABLE:
        if row.name.startswith("miniature_") and row.seen_only:
            _write_seen(row, folder)


def _write_seen(row: DatasetRow, folder: Path) -> None:
    target = folder / Path(row.labels).relative_to("miniature")
    if target.is_dir():
        return
    table = np.full(256, row.ignore_label, np.uint8)
    table[list(row.labelled)] = np.arange(row.num_classes, dtype=np.uint8)
    with whole_folder(target) as unfinished:
        for path in sorted((folder / row.split / "masks").glob("*.png")):
            Image.fromarray(table[read_map(path)]).save(unfinished / path.name)
