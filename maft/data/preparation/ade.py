"""ADE20K: the 150 classes of the scene parsing challenge, and the full set with 847 classes (release 2021_17_01).

ADE20K-150: instance maps are RGB: red is the instance category (1..100, the things in the order of the 150 classes),
green the number of the instance. Stuff comes from the semantic map; where both disagree the instance is on top.

ADE20K full: as in the published protocol, images and labels are shrunk so that the shorter side is at most 512, images
are saved again as JPEG (Pillow's default quality) and labels as 16-bit TIFF.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.checkpoint.io import load_plain_pickle
from maft.data.catalog import dataset
from maft.data.preparation.command import Count, Options
from maft.data.preparation.jobs import image_stems, require, require_files, run_jobs
from maft.data.preparation.labels import convert_labels
from maft.data.preparation.panoptic import Segments, convert_panoptic
from maft.data.reading import inside, read_image, read_map
from maft.errors import UserError
from maft.files import atomic_path, remove_unfinished

_SHORTEST = 512


def prepare_ade150(options: Options) -> list[Count]:
    """Converts ``ADEChallengeData2016``; panoptic and instance form only where ``annotations_instance`` is there.

    Raises:
        UserError: the download is incomplete or damaged.
    """
    ade = options.root / "ADEChallengeData2016"
    rows = {split: dataset(f"ade20k_150_{split}") for split in options.splits}
    folders = {split: Path(row.images).name for split, row in rows.items()}
    needed = [ade / part / folder for folder in folders.values() for part in ("images", "annotations")]
    require(dataset("ade20k_150_val"), dict.fromkeys(needed, "ADEChallengeData2016.zip"))
    counts = []
    for split, row in rows.items():
        semantic, instance = (ade / kind / folders[split] for kind in ("annotations", "annotations_instance"))
        sources = {stem: semantic / f"{stem}.png" for stem in image_stems(row, options.root / row.images)}
        require_files(row, sources.values(), "label maps")
        counts.append(convert_labels(row, options, sources, read_map))
        if not instance.is_dir():
            print(f"{split}: semantic labels only; the panoptic form needs {instance} (annotations_instance.tar)")
            continue
        pairs = {stem: (path, instance / path.name) for stem, path in sources.items()}
        require_files(row, (path for _, path in pairs.values()), "instance maps")
        read = partial(read_segments, row.classes.things, len(row.classes))
        counts += convert_panoptic(dataset(f"ade20k_150_panoptic_{split}"), options, pairs, read)
    return counts


def read_segments(things: tuple[int, ...], num_classes: int, source: tuple[Path, Path]) -> Segments:
    """Panoptic segments of one image of ADE20K-150.

    Args:
        things: class indices of instance categories 1, 2, ...
        num_classes: number of classes of the semantic map.
        source: semantic map (0 for "other", k for class k - 1) and instance map.

    Raises:
        UserError: the maps are damaged, have different sizes, or hold an unknown id.
    """
    semantic, instance = read_map(source[0]), read_map(source[1])
    if instance.ndim != 3 or instance.shape[:2] != semantic.shape:
        raise UserError(f"{source[1]} does not fit its semantic map: {instance.shape} and {semantic.shape}.")
    found = Segments(semantic.shape)
    for value in np.unique(semantic).tolist():
        if value > num_classes:
            raise UserError(f"{source[0]} holds the unknown id {value}: download it again.")
        if value and value - 1 not in things:
            found.add(semantic == value, value - 1, countable=False)
    codes = instance[..., 0].astype(np.int32) * 256 + instance[..., 1]
    for code in np.unique(codes[instance[..., 1] > 0]).tolist():
        category = code // 256
        if not 1 <= category <= len(things):
            raise UserError(f"{source[1]} holds the unknown instance category {category}: download it again.")
        found.add(codes == code, things[category - 1], countable=True)
    return found


def prepare_ade847(options: Options) -> list[Count]:
    """Converts ``ADE20K_2021_17_01/images/ADE``, as its index lists it; for training also the 572 seen classes.

    Raises:
        UserError: the download is incomplete or damaged.
    """
    ade = options.root / "ADE20K_2021_17_01"
    index_file = ade / "index_ade20k.pkl"
    require(dataset("ade20k_847_val"), dict.fromkeys((index_file, ade / "images"), "ADE20K_2021_17_01.zip"))
    listed = read_index(index_file, options.root)
    counts = []
    for split in options.splits:
        row = dataset(f"ade20k_847_{split}")
        originals = {path.stem: path for path in listed[split]}
        segmentations = {stem: path.with_name(f"{stem}_seg.png") for stem, path in originals.items()}
        require_files(row, originals.values(), "images")
        require_files(row, segmentations.values(), "segmentations (_seg.png)")
        small = options.root / row.images
        remove_unfinished(small)
        todo = [(path, small / path.name) for path in originals.values() if not (small / path.name).is_file()]
        run_jobs(_shrink_image, todo, workers=options.workers, description=f"{row.name} images")
        counts.append(Count(f"{row.name} images", len(originals), row.images_expected))
        counts.append(convert_labels(row, options, segmentations, read_classes))
        if split == "train":
            seen = dataset("ade20k_847_train_seen")
            counts.append(convert_labels(seen, options, segmentations, read_classes, drop_empty=True))
    return counts


def read_index(file: Path, root: Path) -> dict[str, list[Path]]:
    """Images of each split by the index of ADE20K full.

    The index is a pickle; only lists, dicts, strings, numbers and NumPy arrays are accepted in it, so that nothing in
    the file can run.

    Raises:
        UserError: the file is damaged, holds anything else, or lacks the lists of files; or it names one elsewhere or
            twice.
    """
    index = load_plain_pickle(file)
    if not isinstance(index, dict) or not {"filename", "folder"} <= index.keys():
        raise UserError(f"{file} is not the index of ADE20K: it lacks 'filename' and 'folder'.")
    try:
        entries = [f"{folder}/{name}" for folder, name in zip(index["folder"], index["filename"], strict=True)]
    except (TypeError, ValueError):
        raise UserError(f"{file} does not list one folder a file name: download it again.") from None
    listed: dict[str, list[Path]] = {"train": [], "val": []}
    for path in (inside(root, entry, file) for entry in entries):
        listed["val" if path.name.startswith("ADE_val_") else "train"].append(path)
    for paths in listed.values():
        if double := [path for path, count in Counter(path.stem for path in paths).items() if count > 1]:
            raise UserError(f"{file} lists {double[0]} more than once: download it again.")
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
    pixels = read_image(source)
    with atomic_path(target) as temporary:
        Image.fromarray(_shrink(pixels, cv2.INTER_LINEAR)).save(temporary)


def _shrink(array: NDArray[Any], interpolation: int) -> NDArray[Any]:
    height, width = array.shape[:2]
    shorter, longer = sorted((height, width))
    if shorter <= _SHORTEST:
        return array
    longer = round(longer / shorter * _SHORTEST)
    size = (longer, _SHORTEST) if width >= height else (_SHORTEST, longer)
    return cv2.resize(array, size, interpolation=interpolation)
