"""The miniature world for zero-shot training: label maps in which the unseen classes are ignored.

They are derived from the drawn masks, once for each unseen split, beside them: ``train/masks_seen_<split>``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from maft.data.catalog import TABLE, datasets_root
from maft.data.reading import read_map
from maft.miniature.dataset import DEFAULT_COUNTS, materialise, whole_folder


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
        target = folder / Path(row.labels).relative_to("miniature") if row.name.startswith("miniature_") else None
        if target is None or not row.seen_only or target.is_dir():
            continue
        table = np.full(256, row.ignore_label, np.uint8)
        table[list(row.labelled)] = np.arange(row.num_classes, dtype=np.uint8)
        with whole_folder(target) as unfinished:
            for path in sorted((folder / row.split / "masks").glob("*.png")):
                Image.fromarray(table[read_map(path)]).save(unfinished / path.name)
