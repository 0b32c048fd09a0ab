"""Files of an answer follow the threshold and the switches of the moment."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from maft.app.downloads import DOWNLOADS, Wish


def downloaded(answer, file, **query):
    _, made = DOWNLOADS[file]
    return made(answer.prediction, Wish.of({key: str(value) for key, value in query.items()}))


def label_map(data):
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "P", "a label map opens in colours"
        return np.asarray(image).astype(int)


def test_label_maps_hold_the_labels(answer):
    expected = np.where(answer.prediction.labels < 0, 255, answer.prediction.labels)
    np.testing.assert_array_equal(label_map(downloaded(answer, "labels.png")), expected)


def test_threshold_and_switches_take_labels_segments_and_instances_away(answer):
    stored = label_map(downloaded(answer, "labels.png", none_below=0.5, hidden="1"))
    np.testing.assert_array_equal(stored, np.where(answer.prediction.labels == 0, 0, 255))
    table = json.loads(downloaded(answer, "prediction.json", none_below=0.5, hidden="1"))
    assert [one["name"] for one in table["segments"]] == ["sky"] and table["instances"] == []
    assert [one["name"] for one in table["classes"]] == ["sky"]


def test_json_has_the_masks(answer):
    table = json.loads(downloaded(answer, "prediction.json"))
    dog = next(one for one in table["instances"] if one["name"] == "dog")
    np.testing.assert_array_equal(coco_mask.decode(dog["segmentation"]), answer.prediction.labels == 2)


@pytest.mark.parametrize("view", ["semantic", "panoptic", "instances"])
def test_the_overlay_is_that_of_the_view(answer, view):
    with Image.open(io.BytesIO(downloaded(answer, "overlay.png", view=view, opacity=0.3))) as image:
        np.testing.assert_array_equal(np.asarray(image), answer.prediction.overlay(0.3, kind=view))


def test_the_threshold_is_that_of_the_predictor(predictor):
    """Applied to a kept answer or asked of the model, it leaves the same."""
    from maft.miniature import render_scene

    image, names = render_scene(0, "val").image, list(predictor.vocabulary().names)
    asked = predictor(image, names, "all", none_below=0.4)
    kept = Wish("semantic", 0.4, 0.6, frozenset()).applied(predictor(image, names, "all"))
    np.testing.assert_array_equal(kept.labels, asked.labels)
    np.testing.assert_array_equal(kept.segment_ids, asked.segment_ids)
    assert kept.segments == asked.segments
    assert [(one.label, one.score) for one in kept.instances] == [(one.label, one.score) for one in asked.instances]


@pytest.mark.parametrize("query", [{"none_below": 2}, {"opacity": "x"}, {"hidden": "a"}, {"view": "sideways"}])
def test_other_parameters_are_refused(answer, query):
    with pytest.raises(ValueError):
        downloaded(answer, "labels.png", **query)
