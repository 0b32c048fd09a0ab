"""Instances and panoptic segments in COCO's formats (https://cocodataset.org/#format-results)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from maft.data.reading import panoptic_colours
from maft.files import atomic_path
from maft.visualize import palette


def encoded_masks(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """(n, H, W) masks as run lengths of pycocotools: dicts of ``size`` [H, W] and ``counts``, a text."""
    # Column by column, as the runs go: one copy for all masks.
    columns = np.ascontiguousarray(masks.transpose(0, 2, 1), dtype=np.uint8)
    return [{**code, "counts": code["counts"].decode()} for code in coco_mask.encode(columns.transpose(2, 1, 0))]


def encoded_regions(numbers: NDArray[np.integer]) -> dict[int, dict[str, Any]]:
    """Each number of an (H, W) map -> its region as `encoded_masks` writes it, from one pass over the map."""
    height, width = numbers.shape
    flat = numbers.T.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    edges = np.stack([starts, np.append(starts[1:], flat.size)], axis=1)
    order = np.argsort(flat[starts], kind="stable")
    found, first = np.unique(flat[starts][order], return_index=True)
    codes = {}
    for number, runs in zip(found.tolist(), np.split(order, first[1:])):
        counts = np.diff(edges[runs].ravel(), prepend=0, append=flat.size)
        # pycocotools leaves out a run of nothing at the end.
        counts = counts[: len(counts) - (counts[-1] == 0)]
        code = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
        codes[number] = {**code, "counts": code["counts"].decode()}
    return codes


def object_results(
    codes: Sequence[dict[str, Any]],
    category_ids: Sequence[int],
    scores: Sequence[float],
    image_id: int | str,
    boxes: NDArray[np.floating] | None = None,
) -> list[dict[str, Any]]:
    """The objects of one image as entries of a file of results.

    Args:
        codes: the masks, see `encoded_masks`.
        category_ids, scores: of each.
        boxes: (n, 4) x0, y0, x1, y1; None: those of the masks.

    Returns:
        dicts of ``image_id``, ``category_id``, ``bbox`` ([x, y, width, height]), ``score`` and ``segmentation``.
    """
    if boxes is not None:
        sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    else:
        sides = coco_mask.toBbox(codes) if codes else np.zeros((0, 4))
    return [
        {"image_id": image_id, "category_id": int(category), "bbox": box, "score": float(score), "segmentation": code}
        for category, box, score, code in zip(category_ids, sides.tolist(), scores, codes, strict=True)
    ]


def segments_info(ids: NDArray[np.integer], segments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The segments of a panoptic map with what its pixels say: ``area``, ``bbox`` ([x, y, width, height]).

    Args:
        ids: (H, W) segment ids, numbered from 1; 0 is none.
        segments: dicts of ``id``, ``category_id`` and ``isthing``.
    """
    height, width = ids.shape
    most = max((segment["id"] for segment in segments), default=0)
    rows = _counts(ids, np.arange(height)[:, None], most, height)
    columns = _counts(ids, np.arange(width)[None], most, width)
    (top, bottom), (left, right) = _ends(rows), _ends(columns)
    boxes = np.stack([left, top, right - left, bottom - top], axis=1) * rows.any(axis=1, keepdims=True)
    areas = rows.sum(axis=1)
    return [
        {
            "id": (id_ := int(segment["id"])),
            "category_id": int(segment["category_id"]),
            "isthing": int(segment["isthing"]),
            "iscrowd": 0,
            "area": int(areas[id_]),
            "bbox": boxes[id_].tolist(),
        }
        for segment in segments
    ]


def _counts(ids: NDArray[np.integer], lines: NDArray[np.integer], most: int, length: int) -> NDArray[np.integer]:
    """(most + 1, length) pixels of every segment in every row or column."""
    places = (ids.astype(np.int64) * length + lines).ravel()
    return np.bincount(places, minlength=(most + 1) * length).reshape(most + 1, length)


def _ends(counts: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """The first line of every segment, and the one behind its last."""
    there = counts > 0
    return there.argmax(axis=1), there.shape[1] - there[:, ::-1].argmax(axis=1)


def write_panoptic_map(path: Path, ids: NDArray[np.integer]) -> None:
    """Writes (H, W) segment ids as a PNG in which an id is R + 256 G + 65536 B."""
    with atomic_path(path) as temporary:
        Image.fromarray(panoptic_colours(ids)).save(temporary)


def categories(ids: Sequence[int], names: Sequence[str], things: Sequence[bool]) -> list[dict[str, Any]]:
    """The categories of a panoptic file: ``id``, ``name``, ``isthing`` and ``color``, that of our pictures."""
    colours = palette(len(names)).tolist()
    return [
        {"id": int(id_), "name": name, "isthing": int(thing), "color": colour}
        for id_, name, thing, colour in zip(ids, names, things, colours, strict=True)
    ]
