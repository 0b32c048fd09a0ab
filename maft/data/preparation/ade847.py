"""ADE20K full (release 2021_17_01): the 847 classes of the benchmark, and the 572 seen ones of the zero-shot split.

As in the published protocol, images and labels are shrunk so that the shorter side is at most 512, images are saved
again as JPEG (Pillow's default quality) and labels as 16-bit TIFF.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.checkpoint.io import load_plain_pickle
from maft.data.catalog import dataset
from maft.data.preparation.command import Count, Options
from maft.data.preparation.jobs import clean_unfinished, convert_labels, read_map, require, require_files, run_jobs
from maft.errors import UserError
from maft.files import atomic_path

_ROWS = {"train": ("ade20k_847_train", "ade20k_847_train_seen"), "val": ("ade20k_847_val",)}
_FOLDERS = {"train": "training", "val": "validation"}
_SHORTEST = 512


def prepare(options: Options) -> list[Count]:
    """Converts ``ADE20K_2021_17_01/images/ADE``, as its index lists it.

    Raises:
        UserError: the download is incomplete or damaged.
    """
    ade = options.root / "ADE20K_2021_17_01"
    index_file = ade / "index_ade20k.pkl"
    row = dataset("ade20k_847_val")
    require(row, {index_file: "ADE20K_2021_17_01.zip", ade / "images": "ADE20K_2021_17_01.zip"})
    listed = read_index(index_file, options.root)
    counts = []
    for split in options.splits:
        originals = {path.stem: path for path in listed[split]}
        segmentations = {stem: path.with_name(f"{stem}_seg.png") for stem, path in originals.items()}
        require_files(row, originals.values(), "images")
        require_files(row, segmentations.values(), "segmentations (_seg.png)")
        small = ade / "images_detectron2" / _FOLDERS[split]
        clean_unfinished(small)
        todo = [(path, small / path.name) for path in originals.values() if not (small / path.name).is_file()]
        run_jobs(_shrink_image, todo, workers=options.workers, description=f"ade20k_847_{split} images")
        counts.append(Count(f"ade20k_847_{split} images", len(originals), {"train": 25574, "val": 2000}[split]))
        for name in _ROWS[split]:
            counts.append(
                convert_labels(
                    dataset(name),
                    options.root,
                    segmentations,
                    read_classes,
                    workers=options.workers,
                    drop_empty=name.endswith("_seen"),
                )
            )
    return counts


def read_index(file: Path, root: Path) -> dict[str, list[Path]]:
    """Images of each split by the release's index.

    The index is a pickle; only lists, dicts, strings, numbers and NumPy arrays are accepted in it, so that nothing in
    the file can run.

    Raises:
        UserError: the file is damaged, holds anything else, or lacks the lists of files.
    """
    index = load_plain_pickle(file)
    if not isinstance(index, dict) or not {"filename", "folder"} <= index.keys():
        raise UserError(f"{file} is not the index of ADE20K: it lacks 'filename' and 'folder'.")
    listed: dict[str, list[Path]] = {"train": [], "val": []}
    for folder, name in zip(index["folder"], index["filename"], strict=True):
        split = "val" if str(name).startswith("ADE_val_") else "train"
        listed[split].append(root / str(folder) / str(name))
    return listed


def read_classes(path: Path) -> NDArray[np.int32]:
    """(h, w) object class ids of a ``_seg.png``, shrunk like its image; 0 where nothing is annotated.

    Raises:
        UserError: the file is damaged or not RGB.
    """
    colours = read_map(path)
    if colours.ndim != 3:
        raise UserError(f"{path} is not an RGB segmentation of ADE20K: download it again.")
    # The release stores class = (red / 10) * 256 + green.
    classes = colours[..., 0].astype(np.int32) // 10 * 256 + colours[..., 1]
    return _shrink(classes, cv2.INTER_NEAREST)


def _shrink_image(job: tuple[Path, Path]) -> None:
    source, target = job
    try:
        with Image.open(source) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{source} cannot be read ({error}): download it again.") from None
    with atomic_path(target) as temporary:
        Image.fromarray(_shrink(pixels, cv2.INTER_LINEAR)).save(temporary)


def _shrink(array: NDArray[Any], interpolation: int) -> NDArray[Any]:
    height, width = array.shape[:2]
    shorter = min(height, width)
    if shorter <= _SHORTEST:
        return array
    new_height, new_width = (
        (_SHORTEST, round(width / float(height) * _SHORTEST))
        if width >= height
        else (round(height / float(width) * _SHORTEST), _SHORTEST)
    )
    return cv2.resize(array, (new_width, new_height), interpolation=interpolation)
