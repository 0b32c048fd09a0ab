"""Records of datasets, and the registration of the catalogue in Detectron2's catalogues."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from maft.data.catalog import TABLE, DatasetRow, dataset
from maft.data.coco_format import PanopticTable, check_area, check_once, panoptic_table
from maft.data.folder import FOLDER_PREFIX, checked_files
from maft.data.headers import check_headers
from maft.data.label_order import check_label_order
from maft.data.label_sets import check_order
from maft.data.labels_report import LabelsReport, label_map_sizes, read_labels_report
from maft.data.layouts import link_advice
from maft.data.miniature import draw_at_first_use
from maft.data.pairs import PAIRS_PREFIX, read_pairs
from maft.data.reading import Record, files_by_stem, read_annotation
from maft.errors import UserError
from maft.structures import as_clip_reads

logger = logging.getLogger(__name__)


def load_records(names: Sequence[str], purpose: str = "DATASETS.TRAIN") -> list[Record]:
    """Records of registered datasets and of tables of region-noun pairs (``pairs:/path``), one after the other.

    Raises:
        UserError: no name is given, one is unknown, or a dataset cannot be used: see also `check_headers`.
    """
    if not names:
        raise UserError(f"{purpose} is empty: name at least one dataset.")
    check_same_classes(names)
    records: list[Record] = []
    for name in names:
        if name.startswith(PAIRS_PREFIX):
            records += read_pairs(name.removeprefix(PAIRS_PREFIX))
        else:
            found = DatasetCatalog.get(name)
            check_headers(name, found)
            check_label_order(name, found)
            records += found
    return records


def check_same_classes(names: Sequence[str]) -> None:
    """Raises UserError unless label k is the same class in all datasets, which are trained on together."""
    lists = {}
    for name in names:
        if not name.startswith(PAIRS_PREFIX):
            register(name)
            if words := MetadataCatalog.get(name).get("stuff_classes"):
                lists[name] = words
    for first, other in zip(lists, list(lists)[1:]):
        for label, (name, another) in enumerate(zip_longest(lists[first], lists[other])):
            if name is None or another is None or as_clip_reads(name) != as_clip_reads(another):
                raise UserError(
                    f"Datasets {first} and {other} cannot be trained on together: label {label} is "
                    f"{name or 'no class'!r} in one and {another or 'no class'!r} in the other."
                )


def dataset_records(name: str) -> list[Record]:
    """Records of a dataset of the catalogue or of a folder of your own.

    Returns:
        One dict an image: ``file_name``, ``sem_seg_file_name``, ``image_id``, ``height``, ``width`` (of the label map,
        which no EXIF orientation turns) and, for panoptic rows,
        ``pan_seg_file_name`` and ``segments_info`` (``id``, contiguous ``category_id``, ``isthing``, ``iscrowd``).

    Raises:
        UserError: the dataset is missing, half prepared or damaged; the message names the step to take.
    """
    row = dataset(name)
    _refresh_metadata(name, row)
    own = name.startswith(FOLDER_PREFIX)
    images, labels = checked_files(name) if own else files_of(row)
    report = None if own else read_labels_report(row.root / row.labels)
    if not own:
        _check_complete(row, images, labels, report)
    records: list[Record] = [
        {"file_name": images[stem], "sem_seg_file_name": label, "image_id": stem if own else image_id(stem)}
        for stem, label in sorted(labels.items())
    ]
    if row.images_expected and len(records) < row.images_expected:
        logger.warning(
            "%s has %d images here, and published numbers are of %d: they do not compare (datasets/README.md).",
            name, len(records), row.images_expected,
        )  # fmt: skip
    if row.panoptic_json:
        return with_segments(row, records)
    known = report["sizes"] if report else {}
    unknown = [stem for stem in labels if stem not in known]
    sizes = {**known, **dict(zip(unknown, label_map_sizes([labels[stem] for stem in unknown])))}
    for stem, record in zip(sorted(labels), records):
        record["height"], record["width"] = sizes[stem]
    return records


def register(name: str) -> None:
    """Makes ``name`` known to Detectron2's catalogues; what others registered under it there is left alone.

    Raises:
        UserError: there is no such dataset.
    """
    if name not in DatasetCatalog:
        row = dataset(name)
        DatasetCatalog.register(name, partial(dataset_records, name))
        _refresh_metadata(name, row)


def register_all() -> None:
    """Registers every row under its name and aliases, in place of what Detectron2 registered under the same name."""
    for row in TABLE:
        for name in (row.name, *row.aliases):
            if name in DatasetCatalog:
                DatasetCatalog.remove(name)
            if name in MetadataCatalog:
                MetadataCatalog.remove(name)
            register(name)


def _refresh_metadata(name: str, row: DatasetRow) -> None:
    labels, root = row.classes, row.root
    names = labels.names("plain")
    things = [] if row.seen_only else labels.things
    values: dict[str, Any] = {
        "stuff_classes": [names[index] for index in row.labelled],
        "ignore_label": labels.ignore_label,
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
            "json_file": str(root / row.instances_json) if row.instances_json else "",
            "thing_dataset_id_to_contiguous_id": {labels.category_ids[index]: index for index in things},
            "stuff_dataset_id_to_contiguous_id": {id_: index for index, id_ in enumerate(labels.category_ids)},
        }
    # Metadata refuses changes through its setters, but the root of all datasets may have moved since the last use.
    vars(MetadataCatalog.get(name)).update(values)


def files_of(row: DatasetRow) -> tuple[dict[str, str], dict[str, str]]:
    """Image files and label files of a catalogue row by stem.

    Raises:
        UserError: a folder is missing or empty; the message names the step to take.
    """
    if row.name.startswith("miniature_"):
        draw_at_first_use(row)
    if not row.root.is_dir():
        raise UserError(
            f"The folder of all datasets {row.root} does not exist (dataset {row.name}): set the environment variable "
            "DETECTRON2_DATASETS to it."
        )
    images = _files(row, row.images, row.image_suffix, "images")
    return images, _files(row, row.labels, row.label_suffix, "labels")


def _files(row: DatasetRow, folder: str, suffix: str, what: str) -> dict[str, str]:
    path = row.root / folder
    found = files_by_stem(path, suffix)
    if not found:
        kind = f" (*{suffix})" if path.is_dir() else ""
        raise UserError(f"Dataset {row.name} has no {what}{kind} in {path}: {link_advice(path) or _advice(row, what)}.")
    return found


def _advice(row: DatasetRow, what: str) -> str:
    if row.name.startswith("miniature_"):
        return "remove that folder, and it is drawn anew"
    if what == "labels" and row.prepare:
        return f"run 'maft prepare {row.prepare}'"
    prepare = f", then run 'maft prepare {row.prepare}'" if row.prepare else ""
    return f"download it from {row.homepage} as datasets/README.md describes{prepare}"


def image_id(stem: str) -> int | str:
    """The id of an image by COCO's rule (file names are numbers) or its name."""
    name = os.path.basename(stem)
    return int(name) if name.isascii() and name.isdigit() else name


def unpaired(
    row: DatasetRow, images: dict[str, str], labels: dict[str, str], report: LabelsReport | None
) -> tuple[list[str], list[str], bool]:
    """What is missing of a prepared dataset.

    Returns:
        stems of images that should have a label map, stems of label maps without an image, and whether label maps are
        missing though nothing says which: where the image folder holds other splits too, only the report tells how
        many there should be.
    """
    known = report["without_labels"] if report else []
    bare = [] if row.split_by_labels else sorted(images.keys() - labels.keys() - set(known))
    # Label maps linked from elsewhere have no report, but as many as published are all of them.
    few = row.split_by_labels and len(labels) != (len(report["sizes"]) if report else row.images_expected)
    return bare, sorted(labels.keys() - images.keys()), few


def _check_complete(
    row: DatasetRow, images: dict[str, str], labels: dict[str, str], report: LabelsReport | None
) -> None:
    bare, lonely, few = unpaired(row, images, labels, report)
    if lonely:
        raise UserError(
            f"Dataset {row.name} has no image for {len(lonely)} of its {len(labels)} label maps, the first is "
            f"{labels[lonely[0]]}: {_advice(row, 'images')}."
        )
    if few:
        expected = f"{len(labels)} of {len(report['sizes'])}" if report else f"{len(labels)}, and no report,"
        raise UserError(
            f"Dataset {row.name} is half prepared: {expected} label maps are in {row.root / row.labels}: "
            f"{_advice(row, 'labels')}."
        )
    if bare:
        raise UserError(
            f"Dataset {row.name} is half prepared: {len(bare)} of its {len(images)} images have no label map in "
            f"{row.root / row.labels}, the first is {images[bare[0]]}: {_advice(row, 'labels')}."
        )


def with_segments(row: DatasetRow, records: list[Record]) -> list[Record]:
    """Adds the panoptic annotation and the sizes to the records of a panoptic row.

    Raises:
        UserError: the annotation is missing, incomplete or of another dataset.
    """
    file, folder = row.root / row.panoptic_json, row.root / row.panoptic_root
    if not file.is_file() or not folder.is_dir():
        missing = folder if file.is_file() else file
        advice = link_advice(missing) or _advice(row, "images" if row.name.startswith("coco") else "labels")
        raise UserError(f"Dataset {row.name} has no panoptic annotation {missing}: {advice}.")
    with _without_collection():
        table = panoptic_table(read_annotation(file), str(file))
        check_once((record["image_id"] for record in records), "an image named", f"Dataset {row.name}")
        return _joined(row, file, folder, table, records)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Without Python's search for cycles, which looks at all of a table again and again while that is read."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _joined(row: DatasetRow, file: Path, folder: Path, table: PanopticTable, records: list[Record]) -> list[Record]:
    labels = row.classes
    index = {id_: position for position, id_ in enumerate(labels.category_ids)}
    things = set(labels.things)
    categories = {id_: {"category_id": place, "isthing": place in things} for id_, place in index.items()}
    foreign = sorted({category["id"] for category in table["categories"]} ^ index.keys())
    if foreign:
        raise UserError(f"{file} has other categories than {labels.name} (id {foreign[0]}): it is of another dataset.")
    names = {category["id"]: category.get("name", "") for category in table["categories"]}
    check_order([names[id_] for id_ in labels.category_ids], labels.names(), str(file), labels.name)
    present = set(os.listdir(folder))
    sizes = {image["id"]: (image["height"], image["width"]) for image in table["images"]}
    annotations = {annotation["image_id"]: annotation for annotation in table["annotations"]}
    for record in records:
        annotation = annotations.get(record["image_id"])
        if annotation is None or annotation["file_name"] not in present:
            raise UserError(
                f"Dataset {row.name} has no panoptic annotation for {record['file_name']}: "
                f"{file} or {folder} is incomplete, download or prepare it again."
            )
        size = record["height"], record["width"] = sizes[annotation["image_id"]]
        record["pan_seg_file_name"] = os.path.join(folder, annotation["file_name"])
        segments = annotation["segments_info"]
        if segments:
            largest = max(segments, key=lambda segment: segment.get("area", 0))
            where = f"{file}: segment {largest['id']} of {record['file_name']}"
            check_area(largest.get("area", 0), size, where)
        record["segments_info"] = [{**segment, **categories[segment["category_id"]]} for segment in segments]
    return records
