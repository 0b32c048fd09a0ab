"""Mapillary Vistas 1.2: its label maps are used as they are; panoptic annotation is made where the release's lacks.

Instance maps hold label * 256 + number for the instances of things, and label * 256 for stuff; labels count from 0, and
65 is unlabelled.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from maft.data.catalog import dataset
from maft.data.label_sets import LabelSet
from maft.data.preparation.command import Count, Options
from maft.data.preparation.jobs import image_stems, require, require_files
from maft.data.preparation.panoptic import Segments, convert_panoptic
from maft.data.reading import read_map
from maft.errors import UserError


def prepare_mapillary(options: Options) -> list[Count]:
    """Checks ``mapillary_vistas`` and makes ``panoptic/`` from ``instances/``, in the release's own layout.

    Raises:
        UserError: the download is incomplete or damaged.
    """
    rows = {split: dataset(f"mapillary_panoptic_{split}") for split in options.splits}
    archive = "the archive of Mapillary Vistas 1.2"
    needed = [Path(folder) for row in rows.values() for folder in (row.images, row.labels)]
    require(dataset("mapillary_val"), {options.root / folder: archive for folder in needed})
    counts = []
    for row in rows.values():
        stems = image_stems(row, options.root / row.images)
        labels = options.root / row.labels
        require_files(row, (labels / f"{stem}{row.label_suffix}" for stem in stems), "label maps")
        counts.append(Count(f"{row.name} label maps", len(stems), row.images_expected))
        sources = {stem: labels.with_name("instances") / f"{stem}.png" for stem in stems}
        if not (options.root / row.panoptic_json).is_file():
            require_files(row, sources.values(), "instance maps")
        counts += convert_panoptic(row, options, sources, partial(read_segments, row.classes))
    return counts


def read_segments(classes: LabelSet, path: Path) -> Segments:
    """Panoptic segments of an instance map.

    Raises:
        UserError: the file is damaged or no instance map.
    """
    stored = read_map(path)
    instance = stored.astype(np.int32)
    # A label map, of 8 bits, would be instances of label 0 alone.
    if stored.ndim != 2 or stored.dtype == np.uint8 or instance.max(initial=0) // 256 > len(classes):
        raise UserError(f"{path} is not an instance map (16 bit) of Mapillary Vistas 1.2: download it again.")
    found = Segments(instance.shape)
    for value in np.unique(instance).tolist():
        if (label := value // 256) < len(classes):
            found.add(instance == value, label, countable=label in classes.things)
    return found
