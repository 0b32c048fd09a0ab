"""What the browser draws of an answer."""

import dataclasses

import numpy as np

from maft.app.photos import as_shown
from maft.app.regions import regions


def test_semantic_regions_are_the_classes_found(answer):
    seen = regions(answer.prediction, "semantic")
    assert [(one["label"], one["name"]) for one in seen.described] == [(0, "sky"), (1, "grass"), (2, "dog")]
    np.testing.assert_array_equal(seen.ids, as_shown(answer.prediction.labels) + 1)
    np.testing.assert_allclose([one["score"] for one in seen.described], [0.9, 0.6, 0.3], atol=1e-4)


def test_names_have_a_place_deep_inside_their_region(answer):
    for view in ("semantic", "panoptic", "instances"):
        seen = regions(answer.prediction, view)
        for number, one in enumerate(seen.described, start=1):
            column, row, depth = one["place"]
            assert seen.ids[row, column] == number and depth > 20
    # The sky: 20 of 40 rows, less a corner; its middle line.
    column, row, depth = regions(answer.prediction, "semantic").described[0]["place"]
    assert abs(row - 160) <= 2 and abs(depth - 160) <= 5


def test_without_unlabelled_pixels_ids_begin_at_one_too(answer):
    full = dataclasses.replace(answer.prediction, labels=np.maximum(answer.prediction.labels, 0))
    assert regions(full, "semantic").ids.min() == 1
    none = dataclasses.replace(answer.prediction, labels=np.full((40, 40), -1))
    seen = regions(none, "semantic")
    assert seen.described == [] and not seen.ids.any()


def test_segments_and_instances_carry_their_scores_to_their_pixels(answer):
    panoptic = regions(answer.prediction, "panoptic")
    np.testing.assert_array_equal(panoptic.ids, as_shown(answer.prediction.segment_ids))
    np.testing.assert_allclose(panoptic.confidence[panoptic.ids == 3], 0.3)
    instances = regions(answer.prediction, "instances")
    dog = as_shown(answer.prediction.labels) == 2
    assert (instances.ids[dog] == 1).all(), "the better one is seen where two overlap"
    assert (instances.ids[~dog] != 1).all() and (instances.ids == 2).any()


def test_views_that_were_not_asked_for_are_none(answer):
    alone = dataclasses.replace(answer.prediction, segment_ids=None, segments=(), instances=None)
    assert regions(alone, "panoptic") is None and regions(alone, "instances") is None
    assert regions(dataclasses.replace(answer.prediction, instances=()), "instances").described == []


def test_packed_for_the_browser(answer):
    seen = regions(answer.prediction, "semantic")
    data, count = seen.packed(), seen.ids.size
    assert len(data) == 3 * count
    np.testing.assert_array_equal(np.frombuffer(data, "<u2", count), seen.ids.ravel())
    percent = np.frombuffer(data, np.uint8, count, 2 * count)
    for threshold in (0, 29, 30, 31, 60, 90, 91, 100):
        np.testing.assert_array_equal(percent >= threshold, seen.confidence.ravel() >= np.float32(threshold / 100))
