"""Average precision of masks: perfect, empty and recorded predictions."""

import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from golden.evaluation import annotation
from golden.runner import run_case
from pycocotools import mask as coco_mask

from maft.errors import UserError
from maft.evaluation import InstanceEvaluator


@pytest.fixture
def masks():
    found = np.zeros((3, 40, 50), dtype=bool)
    found[0, :20, :20], found[1, 25:, :30], found[2, :10, 30:] = True, True, True
    return found


@pytest.fixture
def truth(masks):
    # The ids of the categories are those of the files; labels 3 and 8 are what the model calls them.
    return {
        "images": [{"id": 7, "height": 40, "width": 50}],
        "categories": [{"id": 20, "name": "x"}, {"id": 90, "name": "y"}, {"id": 91, "name": "z"}],
        "annotations": [annotation(i + 1, 7, (20, 90, 90)[i], mask) for i, mask in enumerate(masks)],
    }


def evaluator(truth):
    return InstanceEvaluator(truth, {3: 20, 8: 90, 9: 91}, {3: "x", 8: "y", 9: "z"})


def predictions(masks, classes, scores):
    return {
        "instances": Instances(
            masks.shape[1:],
            pred_masks=torch.from_numpy(masks),
            pred_boxes=Boxes(torch.zeros(len(masks), 4)),
            pred_classes=torch.tensor(classes),
            scores=torch.tensor(scores),
        )
    }


def test_perfect_masks_have_full_precision(truth, masks):
    ours = evaluator(truth)
    ours.process([{"image_id": 7}], [predictions(masks, [3, 8, 8], [0.9, 0.8, 0.7])])
    results = ours.evaluate()["segm"]
    assert results["AP"] == pytest.approx(100) and results["AP-x"] == pytest.approx(100)
    assert math.isnan(results["AP-z"])


def test_a_wrong_class_finds_nothing_and_other_labels_are_left_out(truth, masks):
    ours = evaluator(truth)
    ours.process([{"image_id": 7}], [predictions(masks, [8, 3, 5], [0.9, 0.8, 0.7])])
    assert len(ours.predictions) == 2
    assert ours.evaluate()["segm"]["AP"] == 0


def test_no_prediction_is_zero_where_there_is_something_to_find(truth, masks):
    ours = evaluator(truth)
    ours.process([{"image_id": 7}], [predictions(masks[:0], [], [])])
    results = ours.evaluate()["segm"]
    assert results["AP"] == results["AP-x"] == results["AP-y"] == results["APs"] == 0
    assert math.isnan(results["AP-z"]) and math.isnan(results["APl"])


@pytest.mark.parametrize("lacking", ["iscrowd", "area", "bbox"])
def test_what_tools_leave_out_of_annotations_is_filled_in(truth, masks, lacking):
    for entry in truth["annotations"]:
        entry.pop(lacking, None)
    ours = InstanceEvaluator(truth, {3: 20, 8: 90}, {3: "x", 8: "y"}, tasks=("segm", "bbox"))
    found = predictions(masks, [3, 8, 8], [0.9, 0.8, 0.7])
    found["instances"].remove("pred_boxes")
    ours.process([{"image_id": 7}], [found])
    for results in ours.evaluate().values():
        assert results["AP"] == results["APs"] == pytest.approx(100) and math.isnan(results["APl"])


def broken(truth, **changes):
    first, *others = truth["annotations"]
    return {**truth, "annotations": [{**first, **changes}, *others]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "categories"}, r"not in COCO's format \(categories: Field req"),
        (lambda t: {k: v for k, v in t.items() if k != "images"}, r"not in COCO's format \(images: Field required"),
        (lambda t: {**t, "categories": t["categories"][:-1]}, r"has no category 91 \(z\)"),
        (lambda t: {**t, "categories": [*t["categories"], {"id": 20}]}, "has category 20 more than once"),
        (lambda t: {**t, "images": t["images"] * 2}, "has image 7 more than once"),
        (
            lambda t: {**t, "categories": [{"id": i, "name": n} for i, n in ((20, "y"), (90, "x"), (91, "z"))]},
            "calls label 0 of the dataset's things 'y', but that is label 1",
        ),
        (lambda t: broken(t, category_id=5), "annotations of category 5, which it does not list"),
        (lambda t: broken(t, image_id=None), r"annotations\.0\.image_id"),
        (lambda t: broken(t, image_id="7"), "annotations of image '7', which it does not list"),
        (lambda t: broken(t, iscrowd=256), r"annotations\.0\.iscrowd: .*, not 256"),
        (lambda t: broken(t, area=-5), r"annotations\.0\.area: .*, not -5"),
        (lambda t: broken(t, area=1e308), r"annotation 0 of .* states the area 1e\+308, .* its 50x40 image"),
        (lambda t: broken(t, segmentation=[[60, 0, 90, 0, 90, 9]]), "annotation 0 of .* outside its 50x40 image"),
        (lambda t: broken(t, segmentation=None), "annotation 0 of .* has no segmentation"),
        (lambda t: broken(t, segmentation={"size": [40, 50], "counts": [5]}), "do not fill its 50x40 pixels"),
        (lambda t: broken(t, segmentation=[[0, 0, 1e9, 0, 1e9, 1e9]]), "neither run-length encoded nor polygons"),
        (lambda t: broken(t, area=math.nan), r"annotations\.0\.area"),
        (lambda t: {**t, "images": [{**t["images"][0], "height": -1}]}, r"images\.0\.height"),
        (lambda t: {**t, "images": [{**t["images"][0], "width": 10**30}]}, r"images\.0\.width"),
    ],
)
def test_annotations_of_another_kind_are_refused(truth, change, complaint):
    with pytest.raises(UserError, match=complaint):
        evaluator(change(truth))


def test_only_the_images_that_are_evaluated_count(truth, masks):
    truth["images"].append({"id": 8, "height": 40, "width": 50})
    truth["annotations"].append(annotation(9, 8, 20, masks[0]))
    ours = InstanceEvaluator(truth, {3: 20}, {3: "x"}, images={7})
    ours.process([{"image_id": 7}], [predictions(masks[:1], [3], [0.9])])
    assert ours.evaluate()["segm"]["AP-x"] == pytest.approx(100)
    with pytest.raises(UserError, match="lacks 1 of 2 images, such as 9"):
        InstanceEvaluator(truth, {3: 20}, {3: "x"}, images={7, 9})


def test_categories_that_are_not_measured_lower_no_mean(truth, masks, caplog):
    ours = InstanceEvaluator(truth, {3: 20, 9: 91}, {3: "x", 9: "z"}, source="a.json")
    assert caplog.messages == [
        "2 annotations in a.json are of 1 categories that are not measured, such as 90: they are left out."
    ]
    ours.process([{"image_id": 7}], [predictions(masks[:1], [3], [0.9])])
    assert ours.evaluate()["segm"]["AP"] == pytest.approx(100)


def test_images_of_another_size_than_annotated_are_refused(truth, masks):
    with pytest.raises(UserError, match="predicted for image 7 are 25x20, but the instance annotation says 50x40"):
        evaluator(truth).process([{"image_id": 7}], [predictions(masks[:, ::2, ::2], [3, 8, 8], [0.9, 0.8, 0.7])])


def test_state_continues_where_it_was_saved(truth, masks):
    first, second = evaluator(truth), evaluator(truth)
    first.process([{"image_id": 7}], [predictions(masks[:2], [3, 8], [0.9, 0.8])])
    second.load_state(first.state())
    second.process([{"image_id": 7}], [predictions(masks[2:], [8], [0.7])])
    assert second.evaluate()["segm"]["AP"] == pytest.approx(100)


def test_recorded_case(golden_dir):
    result = run_case(golden_dir / "maskadapter" / "instance_evaluator.json")
    assert result.status == "pass", result.detail


@pytest.mark.parametrize("ids", [[1, 2], [0], [0, 1], [1, 1]])
def test_the_numbering_of_annotations_changes_nothing(ids):
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:50] = True
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    entry = {"category_id": 1, "segmentation": code, "area": 1600, "bbox": [10, 10, 40, 40], "iscrowd": 0}
    truth = {
        "images": [{"id": image, "height": 60, "width": 60} for image in range(len(ids))],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{**entry, "id": id_, "image_id": image} for image, id_ in enumerate(ids)],
    }
    evaluator = InstanceEvaluator(truth, {0: 1}, {0: "cat"})
    for image in range(len(ids)):
        found = Instances((60, 60))
        found.pred_masks, found.pred_classes = torch.from_numpy(mask)[None], torch.tensor([0])
        found.scores = torch.tensor([0.9])
        evaluator.process([{"image_id": image}], [{"instances": found}])
    assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)
