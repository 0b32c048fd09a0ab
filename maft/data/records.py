"""Detectron2 dicts of the datasets of the catalogue, and their registration in Detectron2's catalogues."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image, UnidentifiedImageError

from maft.data.catalog import TABLE, DatasetRow, dataset
from maft.data.folder import FOLDER_PREFIX, folder_items
from maft.errors import UserError
from maft.files import write_json_atomic


def load_items(name: str) -> list[dict[str, Any]]:
    """Detectron2 dicts of a dataset.

    Returns:
        One dict an image: ``file_name``, ``sem_seg_file_name``, ``image_id``, ``height``, ``width`` (of the label map,
        which no EXIF orientation turns) and, for panoptic rows,
        ``pan_seg_file_name`` and ``segments_info`` (``id``, contiguous ``category_id``, ``isthing``, ``iscrowd``).

    Raises:
        UserError: the dataset is missing, half prepared or damaged; the message names the step to take.
    """
    row = dataset(name)
    register(name)
    if name.startswith(FOLDER_PREFIX):
        return _with_sizes(folder_items(name), {})
    images, labels = files_of(row)
    report = read_labels_report(row.root / row.labels)
    _check_complete(row, images, labels, report)
    items = [
        {
            "file_name": images[stem],
            "sem_seg_file_name": labels[stem],
            "image_id": image_id(stem),
        }
        for stem in sorted(labels)
    ]
    if row.panoptic_json:
        return with_segments(row, items)
    return _with_sizes(
        items, {labels[stem]: size for stem, size in (report or {"sizes": {}})["sizes"].items() if stem in labels}
    )


def _with_sizes(items: list[dict[str, Any]], known: dict[str, list[int]]) -> list[dict[str, Any]]:
    unknown = [item["sem_seg_file_name"] for item in items if item["sem_seg_file_name"] not in known]
    sizes = {**known, **dict(zip(unknown, _sizes(unknown)))}
    for item in items:
        item["height"], item["width"] = sizes[item["sem_seg_file_name"]]
    return items


def _sizes(paths: list[str]) -> list[list[int]]:
    # Only headers are read; many files are waited for at once where they lie on a network disk.
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(_size, paths))


def _size(path: str) -> list[int]:
    try:
        with Image.open(path) as image:
            return [image.height, image.width]
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise UserError(
            f"Label map {path} cannot be read ({error}): remove it and prepare the dataset again."
        ) from None


def register(name: str) -> None:
    """Makes ``name`` known to Detectron2's catalogues, or refreshes the paths in its metadata.

    Raises:
        UserError: there is no such dataset.
    """
    row = dataset(name)
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, partial(load_items, name))
    # Metadata refuses changes through its setters, but the root of all datasets may have moved since the last use.
    vars(MetadataCatalog.get(name)).update(_metadata(row))


def register_all() -> None:
    """Registers every row under its name and aliases, in place of what Detectron2 registered under the same name."""
    for row in TABLE:
        for name in (row.name, *row.aliases):
            if name in DatasetCatalog:
                DatasetCatalog.remove(name)
            if name in MetadataCatalog:
                MetadataCatalog.remove(name)
            register(name)


def files_of(row: DatasetRow) -> tuple[dict[str, str], dict[str, str]]:
    """Image files and label files of a catalogue row by stem.

    Raises:
        UserError: a folder is missing or empty; the message names the step to take.
    """
    images = _stems(row, row.images, row.image_suffix, "images")
    return images, _stems(row, row.labels, row.label_suffix, "labels")


def read_labels_report(labels: Path) -> dict[str, Any] | None:
    """What a finished preparation left beside a folder of label maps; None when there is no (readable) report.

    Returns:
        ``images`` and ``labels``, two numbers, ``without_labels``, the images without a labelled pixel, and ``sizes``,
        [height, width] of every label map by stem.
    """
    try:
        report = json.loads(_report_file(labels).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return (
        report
        if isinstance(report, dict) and {"images", "labels", "without_labels", "sizes"} <= report.keys()
        else None
    )


def write_labels_report(labels: Path, without_labels: list[str], files: dict[str, Path]) -> None:
    """Leaves the report that tells a finished preparation from an interrupted one, beside the folder ``labels``.

    Args:
        labels: folder of the label maps.
        without_labels: stems of images that have none, because no pixel of theirs is labelled.
        files: stem -> label map of all the others.
    """
    report = {
        "images": len(files) + len(without_labels),
        "labels": len(files),
        "without_labels": without_labels,
        "sizes": dict(zip(files, _sizes(list(map(str, files.values()))))),
    }
    if read_labels_report(labels) != report:
        write_json_atomic(_report_file(labels), report)


def _report_file(labels: Path) -> Path:
    return labels.with_name(f"{labels.name}_report.json")


def read_annotation(file: Path, *keys: str) -> dict[str, Any]:
    """An annotation file: a JSON object that has ``keys``.

    Raises:
        UserError: the file is damaged or of another kind.
    """
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"Annotation {file} is damaged ({error}): download or prepare it again.") from None
    missing = [key for key in keys if not isinstance(table, dict) or key not in table]
    if missing:
        raise UserError(f"Annotation {file} has no {missing[0]!r}: it is of another kind.")
    return table


def image_id(stem: str) -> int | str:
    """The id of an image by COCO's rule (file names are numbers) or its name."""
    name = os.path.basename(stem)
    return int(name) if name.isdigit() else name


def _metadata(row: DatasetRow) -> dict[str, Any]:
    labels, root = row.classes, row.root
    names = labels.names("plain")
    kept = labels.seen_indices if row.seen_only else range(len(labels))
    things = [index for index in labels.things if index in set(kept)] if len(kept) == len(labels) else []
    values: dict[str, Any] = {
        "stuff_classes": [names[index] for index in kept],
        "ignore_label": row.ignore_label,
        "image_root": str(root / row.images),
        "sem_seg_root": str(root / row.labels),
        "evaluator_type": "sem_seg",
        "label_divisor": 1000,
        "thing_classes": [names[index] for index in things],
    }
    if row.panoptic_json:
        values |= {
            "evaluator_type": "panoptic",
            "panoptic_json": str(root / row.panoptic_json),
            "panoptic_root": str(root / row.panoptic_root),
            "json_file": str(root / row.instances_json),
            "thing_dataset_id_to_contiguous_id": {labels.category_ids[index]: index for index in things},
            "stuff_dataset_id_to_contiguous_id": {id_: index for index, id_ in enumerate(labels.category_ids)},
        }
    return values


def _advice(row: DatasetRow, what: str) -> str:
    if row.name.startswith("miniature_"):
        return f"draw it with 'python datasets/prepare_miniature.py --root {row.root / 'miniature'}'"
    if what == "labels" and row.prepare:
        return f"run 'python datasets/{row.prepare}'"
    return f"download it from {row.homepage} as datasets/README.md describes"


def _stems(row: DatasetRow, folder: str, suffix: str, what: str) -> dict[str, str]:
    root, path = row.root, row.root / folder
    if not root.is_dir():
        raise UserError(
            f"The folder of all datasets {root} does not exist (dataset {row.name}): set the environment variable "
            "DETECTRON2_DATASETS to it."
        )
    if not path.is_dir():
        raise UserError(f"Dataset {row.name} has no {what} in {path}: {_advice(row, what)}.")
    found = {}
    for parent, folders, files in os.walk(path):
        folders.sort()
        prefix = os.path.relpath(parent, path)
        for file in files:
            if file.endswith(suffix) and not file.startswith("."):
                stem = file.removesuffix(suffix)
                found[stem if prefix == "." else f"{prefix}/{stem}"] = os.path.join(parent, file)
    if not found:
        raise UserError(f"Dataset {row.name} has no {what} (*{suffix}) in {path}: {_advice(row, what)}.")
    return found


def _check_complete(
    row: DatasetRow, images: dict[str, str], labels: dict[str, str], prepared: dict[str, Any] | None
) -> None:
    lonely = sorted(labels.keys() - images.keys())
    if lonely:
        raise UserError(
            f"Dataset {row.name} has no image for {len(lonely)} of its {len(labels)} label maps, the first is "
            f"{labels[lonely[0]]}: {_advice(row, 'images')}."
        )
    if row.split_by_labels:
        # The image folder holds other splits too, so only the report tells how many label maps there should be.
        if prepared is None or prepared["labels"] != len(labels):
            expected = f"{len(labels)} of {prepared['labels']}" if prepared else f"{len(labels)}, and no report,"
            raise UserError(
                f"Dataset {row.name} is half prepared: {expected} label maps are in {row.root / row.labels}: "
                f"{_advice(row, 'labels')}."
            )
        return
    known = set(prepared["without_labels"]) if prepared else set()
    bare = sorted(images.keys() - labels.keys() - known)
    if bare:
        raise UserError(
            f"Dataset {row.name} is half prepared: {len(bare)} of its {len(images)} images have no label map in "
            f"{row.root / row.labels}, the first is {images[bare[0]]}: {_advice(row, 'labels')}."
        )


def with_segments(row: DatasetRow, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds the panoptic annotation and the sizes to the dicts of a panoptic row.

    Raises:
        UserError: the annotation is missing, incomplete or of another dataset.
    """
    file, folder = row.root / row.panoptic_json, row.root / row.panoptic_root
    if not file.is_file() or not folder.is_dir():
        missing = folder if file.is_file() else file
        advice = _advice(row, "images" if row.name.startswith("coco") else "labels")
        raise UserError(f"Dataset {row.name} has no panoptic annotation {missing}: {advice}.")
    table = read_annotation(file, "images", "annotations", "categories")
    labels = row.classes
    index = {id_: position for position, id_ in enumerate(labels.category_ids)}
    things = set(labels.things)
    foreign = sorted({category["id"] for category in table["categories"]} ^ index.keys())
    if foreign:
        raise UserError(f"{file} has other categories than {labels.name} (id {foreign[0]}): it is of another dataset.")
    present = set(os.listdir(folder))
    sizes = {image["id"]: (image["height"], image["width"]) for image in table["images"]}
    annotations = {entry["image_id"]: entry for entry in table["annotations"]}
    for item in items:
        entry = annotations.get(item["image_id"])
        if entry is None or entry["file_name"] not in present:
            raise UserError(
                f"Dataset {row.name} has no panoptic annotation for {item['file_name']}: "
                f"{file} or {folder} is incomplete, download or prepare it again."
            )
        item["height"], item["width"] = sizes[entry["image_id"]]
        item["pan_seg_file_name"] = str(folder / entry["file_name"])
        item["segments_info"] = [
            {
                **segment,
                "category_id": index[segment["category_id"]],
                "isthing": index[segment["category_id"]] in things,
            }
            for segment in entry["segments_info"]
        ]
    return items
