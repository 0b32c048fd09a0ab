"""Label maps as PNG files whose pixels are numbers and which viewers show in colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.files import atomic_path
from maft.visualize import UNLABELLED


def stored_labels(labels: NDArray[np.integer], count: int) -> NDArray[np.unsignedinteger]:
    """(H, W) labels as a file holds them.

    Args:
        labels: 0..count-1; all else means that there is none.

    Returns:
        uint8 with 255 for none, or uint16 with 65535 for none where there are more than 255 labels.
    """
    kind = np.uint8 if count <= 255 else np.uint16
    inside = (labels >= 0) & (labels < count)
    return np.where(inside, labels, np.iinfo(kind).max).astype(kind)


def label_image(labels: NDArray[np.integer], colours: NDArray[np.uint8]) -> Image.Image:
    """A palette image of `stored_labels`, or a grey one of 16 bit where a palette has too few entries.

    Args:
        labels: (H, W).
        colours: (count, 3), of each label.
    """
    stored = stored_labels(labels, len(colours))
    picture = Image.fromarray(stored)
    if stored.dtype == np.uint8:
        table = np.full((256, 3), UNLABELLED, dtype=np.uint8)
        table[: len(colours)] = colours
        picture.putpalette(table.tobytes())
        picture.info["transparency"] = 255
    return picture


def write_label_map(path: Path, labels: NDArray[np.integer], colours: NDArray[np.uint8]) -> list[Path]:
    """Writes a label map, see `stored_labels`, and returns the files.

    Up to 255 labels make a palette PNG, in which "none" is transparent. More make a grey PNG of 16 bit, which viewers
    show nearly black, and beside it ``<name>_colours.png``.

    Args:
        path: ends with ``.png``.
        labels, colours: see `label_image`.
    """
    picture = label_image(labels, colours)
    _save(picture, path)
    if picture.mode == "P":
        return [path]
    view = path.with_name(f"{path.stem}_colours.png")
    table = np.concatenate([colours, np.array([UNLABELLED], dtype=np.uint8)])
    _save(Image.fromarray(table[np.minimum(np.asarray(picture), len(colours))]), view)
    return [path, view]


def _save(picture: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary)
