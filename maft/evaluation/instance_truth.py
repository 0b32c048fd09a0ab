"""Annotations of instances in COCO's format, checked and completed for COCO's own code, which trusts them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from pycocotools import mask as coco_mask

from maft.data.coco_format import Category, Object, check_area, instance_table
from maft.data.label_sets import check_order
from maft.data.segmentations import check_segmentation
from maft.errors import UserError, shown

logger = logging.getLogger(__name__)


def read_truth(
    content: Mapping[str, Any], names: Mapping[int, str], images: Collection[Any] | None, source: str
) -> dict[str, Any]:
    """The annotations of some images, complete and numbered from 1.

    What tools leave out is filled in: ``iscrowd`` 0, ``area`` and ``bbox`` of the mask.

    Args:
        content: of the JSON file.
        names: category id -> name of every class that is measured.
        images: ids of the images to keep; None keeps all.
        source: the file, for messages.

    Raises:
        UserError: it is not in COCO's format, lacks an image or category, or numbers its categories otherwise.
    """
    truth = instance_table(content, source)
    _check_categories(truth["categories"], names, source)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    kept = sizes.keys() if images is None else set(images)
    if absent := sorted(kept - sizes.keys(), key=str):
        raise UserError(
            f"{source} lacks {len(absent)} of {len(kept)} images, such as {shown(absent[0])}: it is of other images."
        )
    # COCO's evaluation counts every image and averages over every category of the file, so what is not evaluated has
    # to leave it.
    objects = [
        _complete(found, sizes[found["image_id"]], f"annotation {place} of {source}")
        for place, found in enumerate(truth["annotations"])
        if found["image_id"] in kept and found["category_id"] in names
    ]
    others = Counter(found["category_id"] for found in truth["annotations"] if found["category_id"] not in names)
    if others:
        logger.warning(
            "%d annotations in %s are of %d categories that are not measured, such as %s: they are left out.",
            others.total(),
            source,
            len(others),
            min(others),
        )
    # COCO takes an id of 0 for no match, and loses one of two annotations of one id.
    return {
        "images": [image for image in truth["images"] if image["id"] in kept],
        "categories": [category for category in truth["categories"] if category["id"] in names],
        "annotations": [{**found, "id": number} for number, found in enumerate(objects, start=1)],
    }


def _check_categories(categories: list[Category], names: Mapping[int, str], source: str) -> None:
    listed = {category["id"]: category.get("name", "") for category in categories}
    if lacking := sorted(names.keys() - listed.keys()):
        raise UserError(f"{source} has no category {lacking[0]} ({names[lacking[0]]}): it is of another dataset.")
    check_order([listed[id_] for id_ in names], list(names.values()), source, "the dataset's things")


def _complete(found: Object, size: tuple[int, int], where: str) -> dict[str, Any]:
    runs = check_segmentation(found["segmentation"], size, where)
    check_area(found.get("area", 0), size, where)
    extra: dict[str, Any] = {"iscrowd": 0}
    if "area" not in found or "bbox" not in found:
        code = found["segmentation"]
        if runs is None:
            code = coco_mask.merge(coco_mask.frPyObjects(code, *size))
        elif isinstance(code["counts"], list):
            code = coco_mask.frPyObjects(code, *size)
        extra |= {"area": float(coco_mask.area(code)), "bbox": coco_mask.toBbox(code).tolist()}
    return {**extra, **found}
