"""COCO panoptic: the semantic form of the 133 categories, from panoptic PNGs and their JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maft.data.catalog import dataset
from maft.data.preparation.command import Count, Options
from maft.data.preparation.jobs import convert_labels, read_map, require, require_files
from maft.data.records import read_annotation
from maft.errors import UserError

# One panoptic PNG and the category of each segment id in it.
Source = tuple[Path, dict[int, int]]


def prepare(options: Options) -> list[Count]:
    """Converts ``coco/panoptic_{train,val}2017``.

    Raises:
        UserError: the download is incomplete or damaged.
    """
    coco = options.root / "coco"
    row = dataset("coco_133_val")
    needed = {}
    for split in options.splits:
        needed[coco / f"{split}2017"] = f"{split}2017.zip"
        needed[coco / "annotations" / f"panoptic_{split}2017.json"] = "panoptic_annotations_trainval2017.zip"
        needed[coco / f"panoptic_{split}2017"] = (
            f"panoptic_{split}2017.zip inside panoptic_annotations_trainval2017.zip"
        )
    require(row, needed)
    counts = []
    for split in options.splits:
        row = dataset(f"coco_133_{split}")
        table = read_annotation(coco / "annotations" / f"panoptic_{split}2017.json", "annotations")
        sources: dict[str, Source] = {}
        for entry in table["annotations"]:
            path = coco / f"panoptic_{split}2017" / entry["file_name"]
            sources[path.stem] = (path, {s["id"]: s["category_id"] for s in entry["segments_info"]})
        require_files(row, (path for path, _ in sources.values()), "panoptic PNGs")
        require_files(row, (coco / f"{split}2017" / f"{stem}.jpg" for stem in sources), "images")
        counts.append(
            convert_labels(row, options.root, sources, read_categories, workers=options.workers, drop_empty=False)
        )
    return counts


def read_categories(source: Source) -> NDArray[np.integer]:
    """(h, w) category ids of a panoptic PNG, 0 where there is no segment.

    Raises:
        UserError: the PNG is damaged, not RGB, or holds a segment that its JSON does not know.
    """
    path, categories = source
    colours = read_map(path)
    if colours.ndim != 3:
        raise UserError(f"{path} is not an RGB panoptic map: download it again.")
    ids = colours[..., :3].astype(np.int32) @ np.array([1, 256, 65536], np.int32)
    present, inverse = np.unique(ids, return_inverse=True)
    unknown = [int(id_) for id_ in present if id_ and int(id_) not in categories]
    if unknown:
        raise UserError(f"{path} holds the segment {unknown[0]}, which its JSON does not list: download both again.")
    values = np.array([categories.get(int(id_), 0) for id_ in present], np.int32)
    return values[inverse].reshape(ids.shape)
