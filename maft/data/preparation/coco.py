"""COCO: the 171 labels of COCO-Stuff-164k with the 156 seen ones, and the semantic form of COCO panoptic's 133."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maft.data.catalog import dataset
from maft.data.coco_format import segmented_images
from maft.data.preparation.command import Count, Options
from maft.data.preparation.jobs import image_stems, require, require_files
from maft.data.preparation.labels import convert_labels
from maft.data.reading import inside, read_annotation, read_map, read_panoptic_ids
from maft.errors import UserError

# One panoptic PNG and the category of each segment id in it.
Source = tuple[Path, dict[int, int]]


def prepare_coco_stuff(options: Options) -> list[Count]:
    """Converts ``coco/stuffthingmaps``.

    Raises:
        UserError: the download is incomplete or damaged.
    """
    coco = options.root / "coco"
    needed = {}
    for split in options.splits:
        needed[coco / f"{split}2017"] = f"{split}2017.zip"
        needed[coco / "stuffthingmaps" / f"{split}2017"] = "stuffthingmaps_trainval2017.zip"
    require(dataset("coco_stuff_val"), needed)
    counts = []
    for split in options.splits:
        raw, row = coco / "stuffthingmaps" / f"{split}2017", dataset(f"coco_stuff_{split}")
        sources = {stem: raw / f"{stem}.png" for stem in image_stems(row, options.root / row.images)}
        require_files(row, sources.values(), "stuffthingmaps")
        names = ("coco_stuff_train", "coco_stuff_train_seen") if split == "train" else ("coco_stuff_val",)
        for name in names:
            counts.append(convert_labels(dataset(name), options, sources, read_map, drop_empty=split == "train"))
    return counts


def prepare_coco_panoptic(options: Options) -> list[Count]:
    """Converts ``coco/panoptic_{train,val}2017``.

    Raises:
        UserError: the download is incomplete or damaged.
    """
    coco = options.root / "coco"
    needed, archive = {}, "panoptic_annotations_trainval2017.zip"
    for split in options.splits:
        needed[coco / f"{split}2017"] = f"{split}2017.zip"
        needed[coco / "annotations" / f"panoptic_{split}2017.json"] = archive
        needed[coco / f"panoptic_{split}2017"] = f"panoptic_{split}2017.zip inside {archive}"
    require(dataset("coco_133_val"), needed)
    counts = []
    for split in options.splits:
        row = dataset(f"coco_133_{split}")
        sources = _sources(coco / "annotations" / f"panoptic_{split}2017.json", coco / f"panoptic_{split}2017")
        require_files(row, (path for path, _ in sources.values()), f"panoptic PNGs of panoptic_{split}2017.json")
        require_files(row, (coco / f"{split}2017" / f"{stem}.jpg" for stem in sources), "images")
        counts.append(convert_labels(row, options, sources, read_categories))
    return counts


def _sources(file: Path, folder: Path) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for annotation in segmented_images(read_annotation(file, "annotations"), str(file)):
        path = inside(folder, annotation["file_name"], file)
        if path.stem in sources:
            raise UserError(f"{file} lists {path.stem} more than once: download it again.")
        sources[path.stem] = (path, {s["id"]: s["category_id"] for s in annotation["segments_info"]})
    return sources


def read_categories(source: Source) -> NDArray[np.integer]:
    """(h, w) category ids of a panoptic PNG, 0 where there is no segment.

    Raises:
        UserError: the PNG is damaged, not RGB, or holds a segment that its JSON does not know.
    """
    path, categories = source
    ids = read_panoptic_ids(path)
    present, inverse = np.unique(ids, return_inverse=True)
    unknown = set(present.tolist()) - categories.keys() - {0}
    if unknown:
        raise UserError(f"{path} holds the segment {min(unknown)}, which its JSON does not list: download both again.")
    values = np.array([categories.get(id_, 0) for id_ in present.tolist()], np.int32)
    return values[inverse].reshape(ids.shape)
