"""pycocotools and Detectron2 read back what was written; segments have the areas and boxes of their pixels."""

import json

import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from maft.data.coco_format import panoptic_table
from maft.data.reading import read_panoptic_ids
from maft.exports.coco import (
    categories,
    encoded_masks,
    encoded_regions,
    object_results,
    segments_info,
    write_panoptic_map,
)
from maft.layers.crops import tight_boxes


@pytest.fixture
def masks():
    masks = np.random.default_rng(0).random((5, 40, 60)) > 0.7
    masks[1] = False
    masks[2] = False
    masks[2, 3:9, 20:31] = True
    masks[3] = True
    return masks


def test_masks_survive_json(masks):
    codes = json.loads(json.dumps(encoded_masks(masks)))
    np.testing.assert_array_equal(coco_mask.decode(codes).transpose(2, 0, 1), masks)
    assert encoded_masks(masks[:0]) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (30, 20)])
def test_regions_of_a_map_are_the_masks_of_its_numbers(shape):
    numbers = np.random.default_rng(0).integers(-1, 5, shape).repeat(2, axis=1)
    codes = encoded_regions(numbers)
    assert codes.keys() == set(np.unique(numbers).tolist())
    for number, code in codes.items():
        assert code == encoded_masks((numbers == number)[None])[0]


def test_results_are_those_of_detectron2(masks):
    instances = Instances((40, 60))
    instances.pred_masks = torch.from_numpy(masks)
    instances.pred_boxes = Boxes(tight_boxes(instances.pred_masks).float())
    instances.scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5], dtype=torch.float64)
    instances.pred_classes = torch.tensor([4, 0, 2, 2, 1])
    expected = instances_to_coco_json(instances, 42)
    assert object_results(encoded_masks(masks), [4, 0, 2, 2, 1], [0.9, 0.8, 0.7, 0.6, 0.5], 42) == expected
    boxes = instances.pred_boxes.tensor.numpy()
    assert object_results(encoded_masks(masks), [4, 0, 2, 2, 1], [0.9, 0.8, 0.7, 0.6, 0.5], 42, boxes) == expected
    assert object_results([], [], [], 42) == object_results([], [], [], 42, boxes[:0]) == []


def test_segments_have_the_areas_and_boxes_of_their_pixels(masks, tmp_path):
    ids = np.zeros((40, 60), dtype=np.int32)
    ids[10:20, 5:50], ids[15:30, 40:60] = 1, 300
    segments = [
        {"id": 1, "category_id": 7, "isthing": True},
        {"id": 300, "category_id": 9, "isthing": False},
        {"id": 2, "category_id": 9, "isthing": False},
    ]
    info = segments_info(ids, segments)
    for entry in info:
        mask = np.asfortranarray(ids == entry["id"], dtype=np.uint8)
        assert entry["area"] == mask.sum() and entry["bbox"] == coco_mask.toBbox(coco_mask.encode(mask)).tolist()
    assert [entry["area"] > 0 for entry in info] == [True, True, False]
    assert segments_info(ids * 0, []) == []
    write_panoptic_map(tmp_path / "segments.png", ids)
    np.testing.assert_array_equal(read_panoptic_ids(tmp_path / "segments.png"), ids)
    assert Image.open(tmp_path / "segments.png").mode == "RGB"
    # The checks that annotation from elsewhere passes.
    table = {
        "images": [{"id": 3, "height": 40, "width": 60}],
        "annotations": [{"image_id": 3, "file_name": "segments.png", "segments_info": info[:2]}],
        "categories": categories([7, 9], ["cat", "sky"], [True, False]),
    }
    (read,) = panoptic_table(json.loads(json.dumps(table)), "written")["annotations"]
    assert [part["area"] for part in read["segments_info"]] == [info[0]["area"], info[1]["area"]]
