"""Panoptic PNGs and the COCO-format JSON files of panoptic and instance annotation, from segments of any origin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from maft.data.catalog import DatasetRow
from maft.data.coco_format import check_once, instance_table, panoptic_table
from maft.data.preparation.command import Count, Options
from maft.data.preparation.jobs import run_jobs
from maft.data.reading import panoptic_colours, read_annotation, read_panoptic_ids
from maft.data.records import image_id
from maft.errors import UserError
from maft.files import atomic_path, remove_unfinished, write_json_atomic


class Segments:
    """The segments of one image.

    Attributes:
        ids: (h, w) int32, 0 for void.
        listed: of each segment its class index, whether it is one instance (or a crowd of them) of a thing class, and
            its annotation in COCO's format, with its id. As in the official annotation of ADE20K, ``area`` and ``bbox``
            are those of the whole segment, though later ones may cover it in the map, even entirely.
    """

    def __init__(self, size: tuple[int, ...]) -> None:
        self.ids = np.zeros(size, np.int32)
        self.listed: list[tuple[int, bool, dict[str, Any]]] = []

    def add(
        self, mask: NDArray[np.bool_], class_index: int, *, countable: bool, crowd: bool = False, id_: int = 0
    ) -> None:
        """Lays a segment with an (h, w) mask, not empty, over those that are there; ``id_`` 0 numbers it after them."""
        id_ = id_ or len(self.listed) + 1
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        stated = {"id": id_, "area": int(mask.sum()), "bbox": [int(side) for side in box], "iscrowd": int(crowd)}
        self.listed.append((class_index, countable, stated))
        self.ids[mask] = id_


def convert_panoptic(
    row: DatasetRow,
    options: Options,
    sources: Mapping[str, Any],
    read: Callable[[Any], Segments],
    *,
    suffix: str = ".png",
) -> list[Count]:
    """Makes the panoptic PNGs, then the JSON files that the row names; what is there already is kept.

    Args:
        row: a panoptic row of the catalogue.
        sources: stem of an image -> whatever ``read`` needs.
        read: picklable; gives the segments of an image.
        suffix: ending of the panoptic PNGs, behind the name of the image.

    Raises:
        UserError: a source is damaged, two images have one name, or what is there was made of something else.
    """
    folder = options.root / row.panoptic_root
    folder.mkdir(parents=True, exist_ok=True)
    # Image folders may be nested, panoptic folders are flat.
    check_once((Path(stem).name for stem in sources), "an image named", str(options.root / row.images))
    targets = {stem: folder / f"{Path(stem).name}{suffix}" for stem in sources}
    files = [options.root / file for file in (row.panoptic_json, row.instances_json) if file]
    remove_unfinished(folder, *files)
    # The JSON files are written last: where they are, the PNGs are complete.
    if not all(file.is_file() for file in (*files, *targets.values())):
        jobs = [(sources[stem], targets[stem]) for stem in sources]
        found = run_jobs(partial(_convert, read, row), jobs, workers=options.workers, description=row.name)
        _write_json(row, files, dict(zip(sources, found)), suffix)
    panoptic = panoptic_table(read_annotation(files[0]), str(files[0]))["annotations"]
    objects = [instance_table(read_annotation(file), str(file))["annotations"] for file in files[1:]]
    return [
        Count(f"{row.name} panoptic maps", len(panoptic), row.images_expected),
        Count(f"{row.name} segments", sum(len(annotation["segments_info"]) for annotation in panoptic)),
        *(Count(f"{row.name} instances", len(found)) for found in objects),
    ]


@dataclass(frozen=True)
class _Annotation:
    size: tuple[int, int]
    segments: list[dict[str, Any]]
    objects: list[dict[str, Any]]


def _convert(read: Callable[[Any], Segments], row: DatasetRow, job: tuple[Any, Path]) -> _Annotation:
    source, target = job
    found = read(source)
    if target.is_file():
        if not np.array_equal(read_panoptic_ids(target), found.ids):
            origin = source[-1] if isinstance(source, tuple) else source
            raise UserError(f"{target} shows other segments than are made of {origin}: remove it, and its JSON file.")
    else:
        with atomic_path(target) as temporary:
            Image.fromarray(panoptic_colours(found.ids)).save(temporary)
    segments, objects = [], []
    for class_index, countable, stated in found.listed:
        annotation = {"category_id": row.classes.category_ids[class_index], **stated}
        segments.append(annotation)
        if countable and row.instances_json:
            mask = found.ids == stated["id"]
            encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            run_lengths = {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}
            objects.append({**annotation, "segmentation": run_lengths})
    height, width = found.ids.shape
    return _Annotation((height, width), segments, objects)


def _write_json(row: DatasetRow, files: list[Path], found: Mapping[str, _Annotation], suffix: str) -> None:
    classes, things = row.classes, set(row.classes.things)
    categories = [
        {"id": id_, "name": name, "isthing": int(index in things)}
        for index, (id_, name) in enumerate(zip(classes.category_ids, classes.names()))
    ]
    images: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for stem, annotation in found.items():
        name, id_ = Path(stem).name, image_id(stem)
        height, width = annotation.size
        images.append({"id": id_, "file_name": f"{stem}{row.image_suffix}", "height": height, "width": width})
        panoptic.append({"image_id": id_, "file_name": f"{name}{suffix}", "segments_info": annotation.segments})
        first = len(objects) + 1
        objects += [{**parts, "id": first + k, "image_id": id_} for k, parts in enumerate(annotation.objects)]
    _write(files[0], {"images": images, "annotations": panoptic, "categories": categories})
    countable = [category for category in categories if category["isthing"]]
    for file in files[1:]:
        _write(file, {"images": images, "annotations": objects, "categories": countable})


def _write(file: Path, table: dict[str, Any]) -> None:
    """Writes a JSON file; one that is there already has to be of these images, or of some of them."""
    if file.is_file():
        try:
            known = _by_image(read_annotation(file, "annotations"))
        except (UserError, LookupError, TypeError, AttributeError):
            known = None
        made = _by_image(table)
        if known == made:
            return
        if known is None or not known.items() <= made.items():
            raise UserError(
                f"{file} is damaged or was made of something else, and its panoptic maps are not complete: remove it."
            )
    write_json_atomic(file, table)


def _by_image(table: Mapping[str, Any]) -> dict[Any, list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = {}
    for annotation in table["annotations"]:
        # Instances are numbered through all images.
        parts = {key: value for key, value in annotation.items() if key != "id"}
        found.setdefault(annotation["image_id"], []).append(parts)
    return found
