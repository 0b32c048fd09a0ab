"""Annotation in COCO's format, checked once, where it is read: types, ranges, and that every id stands for one thing.

Nothing is converted: an id that is a text in one place and a number in another would join nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from maft.errors import UserError, shown

_Side = Annotated[int, Field(gt=0, lt=1 << 16)]
_CategoryId = Annotated[int, Field(ge=0, lt=1 << 16)]
_Crowd = Literal[0, 1]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Area = Annotated[float, Field(ge=0, allow_inf_nan=False)]

Table = TypeVar("Table")


class Image(TypedDict):
    """An image that is annotated."""

    id: int | str
    height: _Side
    width: _Side


class Category(TypedDict):
    """A class under the id that the file has for it."""

    id: _CategoryId
    name: NotRequired[str]


class Segment(TypedDict):
    """A segment of a panoptic map; there 0 is void, and other ids have three bytes."""

    id: Annotated[int, Field(gt=0, lt=1 << 24)]
    category_id: _CategoryId
    iscrowd: NotRequired[_Crowd]
    area: NotRequired[_Area]


class SegmentedImage(TypedDict):
    """The panoptic map of an image."""

    image_id: int | str
    file_name: str
    segments_info: list[Segment]


class Object(TypedDict):
    """An instance."""

    image_id: int | str
    category_id: _CategoryId
    segmentation: Any
    iscrowd: NotRequired[_Crowd]
    area: NotRequired[_Area]
    bbox: NotRequired[Annotated[list[_Number], Field(min_length=4, max_length=4)]]


class SegmentedImages(TypedDict):
    """What counts of a panoptic file whose images and categories are known."""

    annotations: list[SegmentedImage]


class PanopticTable(SegmentedImages):
    """A panoptic file."""

    images: list[Image]
    categories: list[Category]


class InstanceTable(TypedDict):
    """A file of instances."""

    images: list[Image]
    annotations: list[Object]
    categories: list[Category]


_SEGMENTED = TypeAdapter(SegmentedImages)
_PANOPTIC = TypeAdapter(PanopticTable)
_INSTANCES = TypeAdapter(InstanceTable)


def segmented_images(content: Any, source: str) -> list[SegmentedImage]:
    """The annotations of a panoptic file, as read from JSON.

    Raises:
        UserError: they are not in COCO's format, or an image, or a segment in an image, is listed twice.
    """
    found = _checked(_SEGMENTED, content, source)["annotations"]
    _check_each_once(found, source)
    return found


def panoptic_table(content: Any, source: str) -> PanopticTable:
    """A panoptic file, as read from JSON.

    Raises:
        UserError: it is not in COCO's format, lists something twice, or annotates what it does not list.
    """
    table = _checked(_PANOPTIC, content, source)
    _check_each_once(table["annotations"], source)
    segments = (part["category_id"] for found in table["annotations"] for part in found["segments_info"])
    _check_listed(table["images"], table["categories"], table["annotations"], segments, source)
    return table


def instance_table(content: Any, source: str) -> InstanceTable:
    """A file of instances, as read from JSON.

    Raises:
        UserError: it is not in COCO's format, lists something twice, or annotates what it does not list.
    """
    table = _checked(_INSTANCES, content, source)
    objects = (found["category_id"] for found in table["annotations"])
    _check_listed(table["images"], table["categories"], table["annotations"], objects, source)
    return table


def check_once(ids: Iterable[int | str], what: str, source: str) -> None:
    """Refuses ids of which one occurs twice; ``what`` they are of and ``source`` are for the message."""
    found = list(ids)
    if len(set(found)) < len(found):
        twice = Counter(found).most_common(1)[0][0]
        raise UserError(f"{source} has {what} {shown(twice)} more than once: correct it, or download it again.")


def check_area(area: float, size: tuple[int, int], where: str) -> None:
    """Refuses an area that no mask within (height, width) has; polygons may reach over the edge by a pixel."""
    if area > (size[0] + 1) * (size[1] + 1):
        raise UserError(f"{where} states the area {area:g}, which is more than its {size[1]}x{size[0]} image.")


def _checked(adapter: TypeAdapter[Table], content: Any, source: str) -> Table:
    try:
        return adapter.validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        found = "" if first["type"] == "missing" else f", not {shown(first['input'])}"
        raise UserError(
            f"{source} is not in COCO's format ({place}: {first['msg']}{found}): download or prepare it again."
        ) from None


def _check_each_once(found: list[SegmentedImage], source: str) -> None:
    check_once((entry["image_id"] for entry in found), "image", source)
    for entry in found:
        ids = [part["id"] for part in entry["segments_info"]]
        if len(set(ids)) < len(ids):
            check_once(ids, "segment", f"{source}: image {shown(entry['image_id'])}")


def _check_listed(
    images: list[Image], categories: list[Category], annotations: Iterable[Any], used: Iterable[int], source: str
) -> None:
    known_images, known = [image["id"] for image in images], [category["id"] for category in categories]
    check_once(known_images, "image", source)
    check_once(known, "category", source)
    for what, strangers in (
        ("image", {entry["image_id"] for entry in annotations} - set(known_images)),
        ("category", set(used) - set(known)),
    ):
        if strangers:
            first = min(strangers, key=str)
            raise UserError(
                f"{source} has annotations of {what} {shown(first)}, which it does not list: write it again."
            )
