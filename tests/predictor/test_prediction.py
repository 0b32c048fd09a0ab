"""A prediction in the forms that other programs take, read back by these programs."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from maft.data.reading import read_labels, read_panoptic_ids
from maft.errors import UserError
from maft.predictor import Instance, Prediction

NAMES = ("sky", "sea, ocean", "ship")


def predicted(things=True, names=NAMES):
    """A sky over a sea with two ships; the right third is nothing."""
    labels = np.zeros((120, 180), dtype=np.int64)
    labels[60:], labels[70:100, 10:40], labels[70:100, 60:90], labels[:, 120:] = 1, 2, 2, -1
    confidence = np.full(labels.shape, 0.5, dtype=np.float32)
    confidence[labels == 2] = 0.75
    image = np.random.default_rng(0).integers(0, 256, (120, 180, 3), dtype=np.uint8)
    if not things:
        return Prediction(image, labels, confidence, names)
    ids = labels.astype(np.int32) + 1
    ids[70:100, 60:90] = 4
    segments = tuple(
        {
            "id": id_,
            "label": label,
            "name": names[label],
            "isthing": label == 2,
            "area": int((ids == id_).sum()),
            "score": 0.9,
        }
        for id_, label in ((1, 0), (2, 1), (3, 2), (4, 2))
    )
    instances = tuple(
        Instance(2, "ship", score, (left, 70.0, left + 30, 100.0), ids == id_)
        for id_, left, score in ((3, 10.0, 0.9), (4, 60.0, 0.8))
    )
    return Prediction(image, labels, confidence, names, ids, segments, instances)


def test_the_short_form_names_what_was_found():
    text = repr(predicted())
    assert text == "Prediction(180x120: sky 33%, sea 25%, ship 8%, unknown 33%)"
    many = tuple(f"class {index}" for index in range(8))
    labels = np.arange(80).reshape(8, 10) // 10
    image = np.zeros((8, 10, 3), dtype=np.uint8)
    assert repr(Prediction(image, labels, labels / 10, many)).endswith("class 4 12%, 3 more)")
    assert len(repr(predicted().instances[0])) < 120


def test_coco_results_are_read_by_pycocotools():
    results = json.loads(json.dumps(predicted().to_coco(image_id=7)))
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 7, "height": 120, "width": 180}],
        "categories": [{"id": index, "name": name} for index, name in enumerate(NAMES)],
        "annotations": [],
    }
    truth.createIndex()
    read = truth.loadRes(results)
    assert [(entry["category_id"], entry["area"]) for entry in read.dataset["annotations"]] == [(2, 900), (2, 900)]
    for entry, instance in zip(read.dataset["annotations"], predicted().instances, strict=True):
        np.testing.assert_array_equal(read.annToMask(entry), instance.mask)
        assert entry["bbox"] == [instance.box[0], instance.box[1], 30, 30] and entry["score"] == instance.score


def test_without_things_each_class_is_an_object():
    prediction = predicted(things=False)
    results = prediction.to_coco()
    assert [entry["category_id"] for entry in results] == [0, 1, 2]
    for entry in results:
        mask = coco_mask.decode(entry["segmentation"])
        np.testing.assert_array_equal(mask, prediction.labels == entry["category_id"])
    assert [entry["score"] for entry in results] == pytest.approx([0.5, 0.5, 0.75])


def test_json_holds_everything():
    prediction = predicted()
    record = json.loads(json.dumps(prediction.to_json()))
    assert (record["width"], record["height"], tuple(record["class_names"])) == (180, 120, NAMES)
    labels = np.full((120, 180), -1)
    for row in record["classes"]:
        labels[coco_mask.decode(row["segmentation"]).astype(bool)] = row["label"]
    np.testing.assert_array_equal(labels, prediction.labels)
    ids = np.zeros((120, 180), dtype=np.int32)
    for part in record["segments"]:
        ids[coco_mask.decode(part["segmentation"]).astype(bool)] = part["id"]
    np.testing.assert_array_equal(ids, np.where(prediction.labels < 0, 0, prediction.segment_ids))
    assert [one["box"] for one in record["instances"]] == [[10, 70, 40, 100], [60, 70, 90, 100]]
    bare = predicted(things=False).to_json()
    assert bare["segments"] is None and bare["instances"] is None


def test_supervision_draws_them():
    supervision = pytest.importorskip("supervision")
    prediction = predicted()
    detections = prediction.to_supervision()
    assert list(detections.data["class_name"]) == ["ship", "ship"] and list(detections.class_id) == [2, 2]
    np.testing.assert_array_equal(detections.xyxy, [[10, 70, 40, 100], [60, 70, 90, 100]])
    np.testing.assert_array_equal(detections.mask, [one.mask for one in prediction.instances])
    drawn = supervision.MaskAnnotator(opacity=1).annotate(prediction.image.copy(), detections)
    changed = (drawn != prediction.image).any(axis=2)
    assert changed[prediction.labels == 2].mean() > 0.99 and not changed[prediction.labels != 2].any()
    assert len(predicted(things=False).to_supervision()) == 3
    nothing = np.full((4, 5), -1)
    empty = Prediction(np.zeros((4, 5, 3), np.uint8), nothing, nothing * 0.0, NAMES)
    assert len(empty.to_supervision()) == 0 and empty.to_coco() == []


def test_fiftyone_labels():
    pytest.importorskip("fiftyone")
    prediction = predicted()
    found = prediction.to_fiftyone()
    np.testing.assert_array_equal(found["segmentation"].mask, prediction.labels + 1)
    for detection, instance in zip(found["detections"].detections, prediction.instances, strict=True):
        assert detection.label == "ship" and detection.confidence == instance.score
        left, top, width, height = np.array(detection.bounding_box) * [180, 120, 180, 120]
        assert (left, top, width, height) == pytest.approx((instance.box[0], 70, 30, 30))
        assert detection.mask.all()


def test_packages_that_are_not_installed_are_named(monkeypatch):
    import sys

    for package in ("supervision", "fiftyone"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf'pip install "maft\[{package}\]"'):
            getattr(predicted(), f"to_{package}")()


def test_saved_files_hold_the_prediction(tmp_path):
    prediction = predicted()
    files = prediction.save(tmp_path / "new", "photo")
    assert [file.name for file in files] == [
        "photo_overlay.png",
        "photo_labels.png",
        "photo_panoptic.png",
        "photo.json",
    ]
    assert sorted(files) == sorted((tmp_path / "new").iterdir())
    np.testing.assert_array_equal(read_labels(files[1]), np.where(prediction.labels < 0, 255, prediction.labels))
    np.testing.assert_array_equal(read_panoptic_ids(files[2]), prediction.segment_ids)
    np.testing.assert_array_equal(np.asarray(Image.open(files[0])), prediction.overlay())
    assert json.loads(files[3].read_text()) == json.loads(json.dumps(prediction.to_json()))
    only = predicted(things=False).save(tmp_path, "few", ["labels"])
    assert only == [tmp_path / "few_labels.png"]
    with pytest.raises(UserError, match="There is no format 'label': choose some of overlay"):
        prediction.save(tmp_path, "x", ["label"])
    with pytest.raises(UserError, match="no segments, because no things were named"):
        predicted(things=False).save(tmp_path, "x", ["panoptic"])


def test_pictures_for_pillow_and_notebooks():
    import io

    prediction = predicted()
    shown = Image.open(io.BytesIO(prediction._repr_png_()))
    np.testing.assert_array_equal(np.asarray(shown), prediction.overlay())
    labels = prediction.to_pil("labels")
    assert labels.mode == "P" and labels.size == (180, 120)
    assert prediction.to_pil("panoptic").mode == "RGB"
    with pytest.raises(UserError, match="no picture 'label'"):
        prediction.to_pil("label")


def test_each_kind_of_overlay_shows_its_own():
    prediction = predicted()
    semantic, panoptic, instances = (
        prediction.overlay(names=False, kind=kind) for kind in ("semantic", "panoptic", "instances")
    )
    np.testing.assert_array_equal(prediction.overlay(names=False), panoptic)
    # The picture is enlarged twice. Instances leave sea and sky alone.
    assert not np.array_equal(semantic, instances)
    inside = (slice(2 * 75, 2 * 95), slice(2 * 15, 2 * 35))
    np.testing.assert_array_equal(semantic[inside], instances[inside])
    with pytest.raises(UserError, match="no instances, because no things were named"):
        predicted(things=False).overlay(kind="instances")
    with pytest.raises(UserError, match="alpha.* is 2: give a number from 0 to 1"):
        prediction.overlay(alpha=2)


def test_the_best_of_several_instances_with_one_mask_is_drawn():
    prediction = predicted()
    mask = prediction.instances[0].mask
    other = Instance(0, "sky", 0.3, prediction.instances[0].box, mask)
    both = Prediction(
        prediction.image, prediction.labels, prediction.confidence, NAMES, instances=(prediction.instances[0], other)
    )
    alone = Prediction(
        prediction.image, prediction.labels, prediction.confidence, NAMES, instances=(prediction.instances[0],)
    )
    np.testing.assert_array_equal(both.overlay(kind="instances"), alone.overlay(kind="instances"))
