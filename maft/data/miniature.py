"""The miniature world for zero-shot training: label maps in which the unseen classes are ignored.

They are derived from the drawn masks, once for each unseen split, beside them: ``train/masks_seen_<split>``.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from maft.data.catalog import TABLE, DatasetRow, datasets_root
from maft.miniature import DEFAULT_COUNTS, materialise


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
    for split, default in DEFAULT_COUNTS.items():
        if not (folder / split / "world.json").is_file():
            materialise(folder, split, (counts or {}).get(split, default), progress=progress)
    write_seen_masks(folder)
    return folder


def write_seen_masks(folder: Path) -> None:
    """Derives the label maps of every unseen split from ``train/masks``; each folder appears whole or not at all."""
    for row in TABLE:
        if row.name.startswith("miniature_") and row.seen_only:
            target = folder / Path(row.labels).relative_to("miniature")
            if not target.is_dir():
                _write(row, folder / row.split / "masks", target)


def _write(row: DatasetRow, source: Path, target: Path) -> None:
    seen = row.classes.seen_indices
    table = np.full(256, row.ignore_label, np.uint8)
    table[list(seen)] = np.arange(len(seen), dtype=np.uint8)
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    unfinished.mkdir(parents=True)
    try:
        for path in sorted(source.glob("*.png")):
            with Image.open(path) as image:
                Image.fromarray(table[np.asarray(image)]).save(unfinished / path.name)
        try:
            unfinished.rename(target)
        except OSError:
            # Another process was faster; its folder holds the same.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
