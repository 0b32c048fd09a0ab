"""Cityscapes (fine annotation): the 19 training ids, and panoptic annotation as cityscapesscripts writes it.

What its createPanopticImgs has written is used as it is: folder, names and segment ids are the same.

Instance maps hold label id * 1000 + number for the instances of things, and the label id alone for stuff and for
groups of things that nobody took apart.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maft.data.catalog import dataset
from maft.data.label_sets import LabelSet
from maft.data.preparation.command import Count, Options
from maft.data.preparation.jobs import image_stems, require, require_files
from maft.data.preparation.labels import LABEL_RULES, convert_labels
from maft.data.preparation.panoptic import Segments, convert_panoptic
from maft.data.reading import read_map
from maft.errors import UserError


def prepare_cityscapes(options: Options) -> list[Count]:
    """Converts ``cityscapes/gtFine``: label maps beside the originals, the panoptic form in folders of its own.

    Raises:
        UserError: the download is incomplete or damaged.
    """
    city = options.root / "cityscapes"
    needed = {}
    for split in options.splits:
        needed[city / "leftImg8bit" / split] = "leftImg8bit_trainvaltest.zip"
        needed[city / "gtFine" / split] = "gtFine_trainvaltest.zip"
    require(dataset("cityscapes_val"), needed)
    counts = []
    for split in options.splits:
        row = dataset(f"cityscapes_{split}")
        images = image_stems(row, options.root / row.images)
        labels, instances = (
            {stem: city / "gtFine" / split / f"{stem}_gtFine_{kind}Ids.png" for stem in images}
            for kind in ("label", "instance")
        )
        require_files(row, labels.values(), "label maps")
        require_files(row, instances.values(), "instance maps")
        counts.append(convert_labels(row, options, labels, read_map))
        read = partial(read_segments, row.classes)
        panoptic = dataset(f"cityscapes_panoptic_{split}")
        counts += convert_panoptic(panoptic, options, instances, read, suffix="_gtFine_panoptic.png")
    return counts


def read_instance_map(path: str | os.PathLike[str]) -> NDArray[np.int32]:
    """(H, W) int32, 1000 times the class id plus the number of the object, or the class id alone.

    Raises:
        UserError: the file is damaged or no instance map.
    """
    stored = read_map(path)
    # Label maps have 8 bits; as instance maps they would make a crowd of all that is one class.
    if stored.ndim != 2 or stored.dtype == np.uint8:
        raise UserError(f"{path} is not an instance map (16 bit) of Cityscapes: download it again.")
    return stored.astype(np.int32)


def read_segments(classes: LabelSet, path: Path) -> Segments:
    """Panoptic segments of an instance map.

    Raises:
        UserError: the file is damaged or no instance map.
    """
    instance, rule = read_instance_map(path), LABEL_RULES["cityscapes"]
    index = {id_: position for position, id_ in enumerate(classes.category_ids)}
    found = Segments(instance.shape)
    for value in np.unique(instance).tolist():
        id_ = value // 1000 if value >= 1000 else value
        if id_ > rule.maximum and id_ not in rule.void:
            raise UserError(f"{path} holds the unknown id {value}: download it again.")
        position = index.get(id_)
        if position is not None:
            countable = position in classes.things
            crowd = countable and value < 1000
            found.add(instance == value, position, countable=countable, crowd=crowd, id_=value)
    return found
