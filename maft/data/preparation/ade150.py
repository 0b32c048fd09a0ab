"""ADE20K-150 (scene parsing challenge): semantic labels, and panoptic and instance annotation in COCO's format.

Instance maps are RGB: red is the instance category (1..100, the things in the order of the 150 classes), green the
number of the instance. Stuff comes from the semantic map; where both disagree the instance is on top.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maft.data.catalog import dataset
from maft.data.preparation.command import Count, Options
from maft.data.preparation.jobs import convert_labels, read_map, require, require_files, stems
from maft.data.preparation.panoptic import Segments, convert_panoptic
from maft.errors import UserError

_FOLDERS = {"train": "training", "val": "validation"}


def prepare(options: Options) -> list[Count]:
    """Converts ``ADEChallengeData2016``; panoptic and instance form only where ``annotations_instance`` is there.

    Raises:
        UserError: the download is incomplete or damaged.
    """
    ade = options.root / "ADEChallengeData2016"
    needed = {}
    for split in options.splits:
        needed[ade / "images" / _FOLDERS[split]] = "ADEChallengeData2016.zip"
        needed[ade / "annotations" / _FOLDERS[split]] = "ADEChallengeData2016.zip"
    require(dataset("ade20k_150_val"), needed)
    counts = []
    for split in options.splits:
        row = dataset(f"ade20k_150_{split}")
        semantic, instance = (ade / kind / _FOLDERS[split] for kind in ("annotations", "annotations_instance"))
        images = stems(ade / "images" / _FOLDERS[split], ".jpg")
        sources = {stem: semantic / f"{stem}.png" for stem in images}
        require_files(row, sources.values(), "label maps")
        counts.append(convert_labels(row, options.root, sources, read_map, workers=options.workers, drop_empty=False))
        if not instance.is_dir():
            print(f"{split}: semantic labels only; the panoptic form needs {instance} (annotations_instance.tar)")
            continue
        pairs = {stem: (path, instance / path.name) for stem, path in sources.items()}
        require_files(row, (path for _, path in pairs.values()), "instance maps")
        read = partial(read_segments, row.classes.things, len(row.classes))
        counts += convert_panoptic(dataset(f"ade20k_150_panoptic_{split}"), options, pairs, read)
    return counts


def read_segments(things: tuple[int, ...], num_classes: int, source: tuple[Path, Path]) -> Segments:
    """Panoptic segments of one image.

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
    found = Segments(np.zeros(semantic.shape, np.int32), [], [], [])
    for value in np.unique(semantic).tolist():
        if value > num_classes:
            raise UserError(f"{source[0]} holds the unknown id {value}: download it again.")
        if value and value - 1 not in things:
            _add(found, semantic == value, value - 1, countable=False)
    codes = instance[..., 0].astype(np.int32) * 256 + instance[..., 1]
    for code in np.unique(codes[instance[..., 1] > 0]).tolist():
        category = code // 256
        if not 1 <= category <= len(things):
            raise UserError(f"{source[1]} holds the unknown instance category {category}: download it again.")
        _add(found, codes == code, things[category - 1], countable=True)
    return found


def _add(found: Segments, mask: NDArray[np.bool_], index: int, *, countable: bool) -> None:
    found.classes.append(index)
    found.countable.append(countable)
    found.crowd.append(False)
    found.ids[mask] = len(found.classes)
