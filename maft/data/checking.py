"""Checks a whole dataset: every file is opened, every pixel counted, and every problem is listed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from maft.data.catalog import DatasetRow, class_names, dataset
from maft.data.folder import FOLDER_PREFIX, folder_files, ignore_is_explained, mixed_depth
from maft.data.label_order import check_label_order
from maft.data.preparation.jobs import run_jobs
from maft.data.reading import MaskContent, Problem, Record, inspect_mask, read_image, read_panoptic_ids
from maft.data.records import files_of, image_id, read_labels_report, unpaired, with_segments
from maft.errors import UserError

# Sides of an image: fitted into 2048 pixels, the shorter one is then less than the 32 of the coarsest features.
_LONGEST = 64
# About as many as the largest cameras have.
_MOST_PIXELS = 50_000_000


@dataclass(frozen=True)
class Report:
    """What a dataset holds.

    Attributes:
        row: its catalogue row.
        names: (C,) class names of the labels.
        images: number of image files that belong to the dataset.
        labels: number of label maps.
        pixels: (C,) int64, pixels of each class.
        images_with: (C,) int64, label maps in which each class occurs.
        ignored: share of pixels without a class, 0..1.
        sizes: smallest and largest (height, width), by area; None when nothing could be read.
        problems: everything that is wrong.
        good: (image, label map) of the pairs without a problem.
    """

    row: DatasetRow
    names: tuple[str, ...]
    images: int
    labels: int
    pixels: NDArray[np.int64]
    images_with: NDArray[np.int64]
    ignored: float
    sizes: tuple[tuple[int, int], tuple[int, int]] | None
    problems: list[Problem]
    good: list[tuple[str, str]]


@dataclass(frozen=True)
class _Pair:
    stem: str
    image: str
    label: str
    content: MaskContent
    problems: list[Problem]


def check_dataset(name: str, *, workers: int = 1) -> Report:
    """Opens every file of a dataset.

    Args:
        name: dataset name, alias or ``folder:/path``.
        workers: number of processes.

    Raises:
        UserError: there is no such dataset, or a whole part of it is missing.
    """
    row = dataset(name)
    own = name.startswith(FOLDER_PREFIX)
    images, labels, problems = folder_files(name) if own else (*files_of(row), [])
    problems += _unpaired(row, images, labels)
    paired = sorted(images.keys() & labels.keys())
    inspect = partial(
        inspect_mask,
        num_classes=row.num_classes,
        ignore_label=row.ignore_label,
        binary_is_meant=not own or ignore_is_explained(name),
    )
    pairs = run_jobs(
        partial(_inspect_pair, inspect, row.split == "train", row.ignore_label),
        [(stem, images[stem], labels[stem]) for stem in paired],
        workers=workers,
        description=name,
    )
    for pair in pairs:
        problems += pair.problems
    problems += _depths(pairs)
    if row.panoptic_json:
        problems += _panoptic(row, pairs, workers)
    return _summary(row, class_names(name), len(images), len(labels), pairs, problems)


def _unpaired(row: DatasetRow, images: dict[str, str], labels: dict[str, str]) -> list[Problem]:
    bare, lonely, few = unpaired(row, images, labels, read_labels_report(row.root / row.labels))
    problems = [Problem("image without label", f"Image {images[stem]} has no label map.") for stem in bare]
    problems += [Problem("label without image", f"Label map {labels[stem]} has no image.") for stem in lonely]
    if few:
        problems.append(
            Problem("half prepared", f"{row.root / row.labels} is not complete: run 'maft prepare {row.prepare}'.")
        )
    return problems


def _inspect_pair(
    inspect: partial[MaskContent], must_teach: bool, ignore_label: int, job: tuple[str, str, str]
) -> _Pair:
    stem, image, label = job
    content = inspect(label)
    problems = [content.problem] if content.problem else []
    size = None
    try:
        size = read_image(image).shape[:2]
    except UserError as error:
        problems.append(Problem("unreadable image", str(error)))
    if size:
        problems += _shape_problems(image, size)
    if size and content.size and size != content.size:
        sizes = f"{size[0]}x{size[1]} and {content.size[0]}x{content.size[1]}"
        problems.append(Problem("size mismatch", f"Image {image} and label map {label} differ in size: {sizes}."))
    if must_teach and content.counts and content.counts.keys() <= {ignore_label} and not content.problem:
        problems.append(Problem("no labelled pixel", f"Label map {label} holds nothing but the ignore value."))
    return _Pair(stem, image, label, content, problems)


def _shape_problems(image: str, size: tuple[int, int]) -> list[Problem]:
    (height, width), problems = size, []
    if max(size) > _LONGEST * min(size):
        text = f"Image {image} is {width}x{height}, a strip of which resizing leaves next to nothing: cut or remove it."
        problems.append(Problem("thin image", text))
    if height * width > _MOST_PIXELS:
        text = f"Image {image} is {width}x{height}, which takes gigabytes to label: shrink it and its label map."
        problems.append(Problem("giant image", text))
    return problems


def _depths(pairs: list[_Pair]) -> list[Problem]:
    depths = Counter(pair.content.bits for pair in pairs if pair.content.counts)
    if len(depths) < 2:
        return []
    usual = depths.most_common(1)[0][0]
    odd = [pair for pair in pairs if pair.content.counts and pair.content.bits != usual]
    return [mixed_depth(pair.label, pair.content.bits) for pair in odd]


def _panoptic(row: DatasetRow, pairs: list[_Pair], workers: int) -> list[Problem]:
    records: list[Record] = [
        {"file_name": pair.image, "sem_seg_file_name": pair.label, "image_id": image_id(pair.stem)} for pair in pairs
    ]
    try:
        with_segments(row, records)
        check_label_order(row.name, [record for record, pair in zip(records, pairs) if not pair.problems])
    except UserError as error:
        return [Problem("panoptic annotation", str(error))]
    jobs = [(record["pan_seg_file_name"], {part["id"] for part in record["segments_info"]}) for record in records]
    found = run_jobs(_check_segments, jobs, workers=workers, description=f"{row.name} segments")
    return [problem for problem in found if problem]


def _check_segments(job: tuple[str, set[int]]) -> Problem | None:
    path, listed = job
    try:
        present = set(np.unique(read_panoptic_ids(path)).tolist()) - {0}
    except UserError as error:
        return Problem("unreadable panoptic map", str(error))
    # Some segments may be covered by others, but not all of them.
    if present <= listed and (present or not listed):
        return None
    where = f"its JSON does not list segment {min(present - listed)}" if present else "it shows no segment of its JSON"
    return Problem("panoptic segments", f"Panoptic map {path} and its JSON disagree: {where}.")


def _summary(
    row: DatasetRow, names: tuple[str, ...], images: int, labels: int, pairs: list[_Pair], problems: list[Problem]
) -> Report:
    pixels, images_with = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    total = 0
    for pair in pairs:
        total += sum(pair.content.counts.values())
        for value, count in pair.content.counts.items():
            if value != row.ignore_label and 0 <= value < len(names):
                pixels[value] += count
                images_with[value] += 1
    ignored = sum(pair.content.counts.get(row.ignore_label, 0) for pair in pairs)
    sizes = sorted((pair.content.size for pair in pairs if pair.content.size), key=lambda size: size[0] * size[1])
    return Report(
        row=row,
        names=names,
        images=labels if row.split_by_labels else images,
        labels=labels,
        pixels=pixels,
        images_with=images_with,
        ignored=ignored / total if total else 0.0,
        sizes=(sizes[0], sizes[-1]) if sizes else None,
        problems=problems,
        good=[(pair.image, pair.label) for pair in pairs if not pair.problems],
    )
