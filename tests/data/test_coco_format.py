"""Panoptic annotation is used as it is written, or refused; of instances see the tests of their evaluator."""

import pytest

from maft.data.coco_format import panoptic_table
from maft.errors import UserError


def table(**segment):
    return {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 4, "width": 5}],
        "annotations": [
            {"image_id": 1, "file_name": "1.png", "segments_info": [{"id": 9, "category_id": 3, **segment}]}
        ],
        "categories": [{"id": 3, "name": "x"}],
    }


def test_what_is_right_stays_as_it_is():
    segment = {"id": 9, "category_id": 3, "iscrowd": 1, "area": 2.5}
    assert panoptic_table(table(**segment), "a.json")["annotations"][0]["segments_info"] == [segment]
    assert panoptic_table(table(), "a.json")["images"] == [{"id": 1, "height": 4, "width": 5}]


@pytest.mark.parametrize(
    "segment",
    [
        *({"iscrowd": value} for value in ("0", "false", [0], float("nan"), -1, 256)),
        *({"id": value} for value in (0, 1.5, "1", float("inf"), 1 << 24)),
        *({"category_id": value} for value in (1.7, "3", [3], None, float("nan"), 2**31)),
        *({"area": value} for value in (-1, float("inf"), 10**400)),
    ],
)
def test_segments_that_are_no_segments(segment):
    (key,) = segment
    with pytest.raises(UserError, match=rf"^a.json is not in COCO's format \(annotations.0.segments_info.0.{key}:"):
        panoptic_table(table(**segment), "a.json")


@pytest.mark.parametrize(
    ("key", "extra", "complaint"),
    [
        ("images", {"id": 1, "height": 4, "width": 6}, "has image 1 more than once"),
        ("images", {"id": 2, "height": "4", "width": 6}, r"\(images.1.height: .*, not '4'\)"),
        ("categories", {"id": 3, "name": "y"}, "has category 3 more than once"),
        ("annotations", {"image_id": 1, "file_name": "2.png", "segments_info": []}, "has image 1 more than once"),
        ("annotations", {"image_id": "1", "file_name": "2.png", "segments_info": []}, "image '1', which it does not"),
    ],
)
def test_what_is_listed_twice_or_nowhere(key, extra, complaint):
    content = table()
    content[key].append(extra)
    with pytest.raises(UserError, match=complaint):
        panoptic_table(content, "a.json")


def test_segments_listed_twice_or_of_no_category():
    content = table()
    content["annotations"][0]["segments_info"] *= 2
    with pytest.raises(UserError, match="image 1 has segment 9 more than once"):
        panoptic_table(content, "a.json")
    with pytest.raises(UserError, match="annotations of category 4, which it does not list"):
        panoptic_table(table(category_id=4), "a.json")
