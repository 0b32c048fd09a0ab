"""ADE20K-150 (scene parsing challenge): semantic labels, and panoptic and instance annotation in COCO's format.

Instance maps are RGB: red is the instance category (1..100, the things in the order of the 150 classes), green the
number of the instance. Stuff comes from the semantic map; where both disagree the instance is on top.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from maft.data.catalog import DatasetRow, dataset
from maft.data.preparation.command import Count, Options
from maft.data.preparation.jobs import (
    clean_unfinished,
    convert_labels,
    read_map,
    require,
    require_files,
    run_jobs,
    stems,
)
from maft.errors import UserError
from maft.files import atomic_path, write_json_atomic

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
        raw = ade / "annotations" / _FOLDERS[split]
        images = stems(ade / "images" / _FOLDERS[split], ".jpg")
        require_files(row, (raw / f"{stem}.png" for stem in images), "label maps")
        sources = {stem: raw / f"{stem}.png" for stem in images}
        counts.append(convert_labels(row, options.root, sources, read_map, workers=options.workers, drop_empty=False))
        instances = ade / "annotations_instance" / _FOLDERS[split]
        if not instances.is_dir():
            print(
                f"{split}: semantic labels only; panoptic and instance annotation need {instances} "
                "(annotations_instance.tar)"
            )
            continue
        require_files(row, (instances / f"{stem}.png" for stem in images), "instance maps")
        counts += _panoptic(dataset(f"ade20k_150_panoptic_{split}"), options, sources, instances)
    return counts


def _panoptic(row: DatasetRow, options: Options, semantic: dict[str, Path], instances: Path) -> list[Count]:
    folder = options.root / row.panoptic_root
    folder.mkdir(parents=True, exist_ok=True)
    clean_unfinished(folder)
    jobs = [(path, instances / f"{stem}.png", folder / f"{stem}.png") for stem, path in semantic.items()]
    files = (options.root / row.panoptic_json, options.root / row.instances_json)
    # The JSON files are written last.
    if not all(file.is_file() for file in (*files, *(target for _, _, target in jobs))):
        _write_panoptic(row, files, list(semantic), jobs, options.workers)
    panoptic, objects = (json.loads(file.read_text(encoding="utf-8"))["annotations"] for file in files)
    return [
        Count(f"{row.name} panoptic maps", len(panoptic), row.images_expected),
        Count(f"{row.name} segments", sum(len(entry["segments_info"]) for entry in panoptic)),
        Count(f"{row.name} instances", len(objects)),
    ]


def _write_panoptic(
    row: DatasetRow, files: tuple[Path, Path], names: list[str], jobs: list[tuple[Path, Path, Path]], workers: int
) -> None:
    classes = row.classes
    results = run_jobs(partial(_convert, classes.things, len(classes)), jobs, workers=workers, description=row.name)
    things = set(classes.things)
    categories = [
        {"id": id_, "name": name, "isthing": int(index in things)}
        for index, (id_, name) in enumerate(zip(classes.category_ids, classes.names()))
    ]
    images: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for stem, (height, width, segment_infos, found) in zip(names, results):
        images.append({"id": stem, "file_name": f"{stem}.jpg", "height": height, "width": width})
        segments.append({"image_id": stem, "file_name": f"{stem}.png", "segments_info": segment_infos})
        objects += [{"id": len(objects) + number, "image_id": stem, **entry} for number, entry in enumerate(found, 1)]
    write_json_atomic(files[0], {"images": images, "annotations": segments, "categories": categories})
    countable = [category for category in categories if category["isthing"]]
    write_json_atomic(files[1], {"images": images, "annotations": objects, "categories": countable})


def _convert(
    things: tuple[int, ...], num_classes: int, job: tuple[Path, Path, Path]
) -> tuple[int, int, list[dict[str, Any]], list[dict[str, Any]]]:
    semantic_path, instance_path, target = job
    ids, owners, objects = segments_of(
        read_map(semantic_path), read_map(instance_path), things, num_classes, str(instance_path)
    )
    if not target.is_file():
        with atomic_path(target) as temporary:
            Image.fromarray(np.stack([ids % 256, ids // 256, np.zeros_like(ids)], -1).astype(np.uint8)).save(temporary)
    infos, found = [], []
    for id_, category in owners.items():
        area, box, encoded = _measure(ids == id_)
        if area:
            infos.append({"id": id_, "category_id": category, "area": area, "bbox": box, "iscrowd": 0})
        if area and id_ in objects:
            found.append({"category_id": category, "area": area, "bbox": box, "iscrowd": 0, "segmentation": encoded})
    height, width = ids.shape
    return height, width, infos, found


def segments_of(
    semantic: NDArray[np.integer],
    instance: NDArray[np.integer],
    things: tuple[int, ...],
    num_classes: int,
    source: str,
) -> tuple[NDArray[np.int32], dict[int, int], set[int]]:
    """Panoptic segments of one image.

    Args:
        semantic: (h, w), 0 for "other", k for class k - 1.
        instance: (h, w, 3), red the instance category from 1, green the number of the instance.
        things: class indices of instance categories 1, 2, ...
        num_classes: number of classes of the semantic map.
        source: file name for error messages.

    Returns:
        (h, w) segment ids with 0 for void; segment id -> class index; which segments are instances.

    Raises:
        UserError: the maps have different sizes or an id is unknown.
    """
    if instance.ndim != 3 or instance.shape[:2] != semantic.shape:
        raise UserError(f"{source} does not fit its semantic map: {instance.shape} and {semantic.shape}.")
    owners: dict[int, int] = {}
    ids = np.zeros(semantic.shape, np.int32)
    objects: set[int] = set()
    thing_set = set(things)
    for value in np.unique(semantic).tolist():
        if value > num_classes:
            raise UserError(f"The semantic map of {source} holds the unknown id {value}: download it again.")
        if value and value - 1 not in thing_set:
            owners[len(owners) + 1] = value - 1
            ids[semantic == value] = len(owners)
    codes = instance[..., 0].astype(np.int32) * 256 + instance[..., 1]
    for code in np.unique(codes[instance[..., 1] > 0]).tolist():
        category = code // 256
        if not 1 <= category <= len(things):
            raise UserError(f"{source} holds the unknown instance category {category}: download it again.")
        owners[len(owners) + 1] = things[category - 1]
        ids[codes == code] = len(owners)
        objects.add(len(owners))
    return ids, owners, objects


def _measure(mask: NDArray[np.bool_]) -> tuple[int, list[int], dict[str, Any]]:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    box = [int(side) for side in coco_mask.toBbox(encoded)]
    return (
        int(coco_mask.area(encoded)),
        box,
        {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")},
    )
