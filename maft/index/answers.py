"""Masks that were found, as other programs read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from maft.exports.coco import object_results
from maft.index.ranking import FoundMask


def as_ranking(found: Sequence[FoundMask]) -> list[dict[str, Any]]:
    """Every mask as plain data, best first, with its ``rank`` from 1."""
    return [{"rank": rank, **asdict(one), "box": list(one.box)} for rank, one in enumerate(found, start=1)]


def as_coco(found: Sequence[FoundMask], words: Sequence[str]) -> dict[str, Any]:
    """A file of COCO's form: ``images``, ``categories``, numbered from 1 as the words are, and ``annotations``.

    Annotations are those of `maft.exports.coco.object_results` with ``id``, ``area`` and ``iscrowd``.
    """
    ids = {word: number for number, word in enumerate(words, start=1)}
    images, annotations = [], list[dict[str, Any]]()
    for image, group in groupby(sorted(found, key=lambda one: one.image), key=lambda one: one.image):
        masks = list(group)
        height, width = masks[0].segmentation["size"]
        images.append({"id": image, "file_name": masks[0].file, "height": height, "width": width})
        codes, scores = [one.segmentation for one in masks], [one.score for one in masks]
        objects = object_results(codes, [ids[one.word] for one in masks], scores, image)
        annotations += [{**entry, "area": one.area, "iscrowd": 0} for entry, one in zip(objects, masks, strict=True)]
    numbered = [{"id": number, **entry} for number, entry in enumerate(annotations, start=1)]
    categories = [{"id": number, "name": word} for word, number in ids.items()]
    return {"images": images, "categories": categories, "annotations": numbered}
