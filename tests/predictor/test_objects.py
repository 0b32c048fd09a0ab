"""Segments and instances of a predictor beside its labels."""

import numpy as np
import pytest

from maft.predictor import Predictor

WORDS = ["a red disc", "grass", "sky"]


@pytest.mark.parametrize("kind", ["PANOPTIC", "INSTANCE"])
def test_a_config_for_panoptic_results_labels_pictures(tiny_configs, image, kind):
    other = Predictor.from_config(tiny_configs / "maft.yaml", [f"MODEL.INFERENCE.{kind}", "True"])
    assert other(image, WORDS).labels.shape == (40, 60)


def test_panoptic_segments_come_when_things_are_named(predictor, image, monkeypatch):
    for threshold in ("object_mask_threshold", "overlap_threshold"):
        monkeypatch.setitem(predictor.model.inference_options, threshold, 0.0)
    before = dict(predictor.model.inference_options)
    plain = predictor(image, WORDS)
    assert plain.segment_ids is None and plain.segments == ()
    for things, countable in (("all", WORDS), (["A  red disc"], WORDS[:1]), ([], [])):
        found = predictor(image, WORDS, things)
        assert found.labels.shape == found.segment_ids.shape == (40, 60)
        assert {segment["id"] for segment in found.segments} == set(np.unique(found.segment_ids)) - {0} != set()
        for segment in found.segments:
            assert segment["name"] == WORDS[segment["label"]]
            assert segment["isthing"] == (segment["name"] in countable)
            assert segment["area"] == (found.segment_ids == segment["id"]).sum() > 0
        stuff = [segment["label"] for segment in found.segments if not segment["isthing"]]
        assert len(stuff) == len(set(stuff))
    assert predictor.model.inference_options == before


PICTURES = [(40, 60), (61, 35), (48, 48), (33, 90), (20, 21)]
CLASSIFIERS = {
    "IPCLIP": ["MODEL.CLIP.NAME", "tiny_vit"],
    "MaskedCrops": ["MODEL.CLASSIFIER.NAME", "MaskedCrops", "MODEL.ENSEMBLE.NAME", "OVSegEnsemble"],
    "MaskPooling": ["MODEL.CLIP.NAME", "tiny_convnext", "MODEL.CLASSIFIER.NAME", "MaskPooling"],
    "MaskAdapter": ["MODEL.CLIP.NAME", "tiny_convnext", "MODEL.CLASSIFIER.NAME", "MaskAdapter"],
}


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_pictures_of_many_sizes_are_labelled_as_each_by_itself(tiny_configs, classifier):
    predictor = Predictor.from_config(tiny_configs / "maft.yaml", [*CLASSIFIERS[classifier], "MODEL.LOSSES", "{}"])
    draws = np.random.default_rng(0)
    images = [draws.integers(0, 256, (*size, 3), dtype=np.uint8) for size in PICTURES]
    together = predictor(images, WORDS, "all")
    assert [found.labels.shape for found in together] == PICTURES
    for image, found in zip(reversed(images), reversed(together), strict=True):
        alone = predictor(image, WORDS, "all")
        np.testing.assert_allclose(found.confidence, alone.confidence, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(found.labels, alone.labels)
        np.testing.assert_array_equal(found.segment_ids, alone.segment_ids)
        np.testing.assert_allclose([i.score for i in found.instances], [i.score for i in alone.instances], atol=1e-5)


def test_confidence_and_scores_lie_in_0_to_1_and_what_is_less_sure_is_none_of_these(tiny_configs, image):
    soft = ["MODEL.CLASSIFIER.LOGIT_SCALE", "5.0", "MODEL.INFERENCE.OVERLAP_THRESHOLD", "0.0"]
    predictor = Predictor.from_config(tiny_configs / "maft.yaml", soft)
    found = predictor(image, WORDS, "all")
    assert found.confidence.dtype == np.float32 and 0 < found.confidence.min() < found.confidence.max() <= 1
    assert all(0 < one["score"] <= 1 for one in found.segments) and all(0 < one.score <= 1 for one in found.instances)
    scores = [one.score for one in found.instances]
    assert scores == sorted(scores, reverse=True)
    for one in found.instances:
        rows, columns = np.nonzero(one.mask)
        assert one.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert one.name == WORDS[one.label] and one.mask.shape == (40, 60)
    # One name for each mask.
    assert len({one.mask.tobytes() for one in found.instances}) == len(found.instances)
    for limit in (np.median(found.confidence), np.median(scores), 1.0):
        some = predictor(image, WORDS, "all", none_below=float(limit))
        np.testing.assert_array_equal(some.labels, np.where(found.confidence < limit, -1, found.labels))
        np.testing.assert_array_equal(some.confidence, found.confidence)
        kept = [one for one in found.segments if one["score"] >= limit]
        assert list(some.segments) == kept
        inside = np.isin(found.segment_ids, [one["id"] for one in kept])
        np.testing.assert_array_equal(some.segment_ids, np.where(inside, found.segment_ids, 0))
        assert [one.score for one in some.instances] == [score for score in scores if score >= limit]


def test_areas_and_boxes_are_those_of_the_masks_and_labels_do_not_depend_on_things(predictor, image, monkeypatch):
    monkeypatch.setattr("maft.layers.score_maps._STRIP_BYTES", 0)
    found = predictor(image, WORDS, "all")
    assert found.segment_ids.shape == (40, 60)
    assert [one["area"] for one in found.segments] == [(found.segment_ids == s["id"]).sum() for s in found.segments]
    for one in found.instances:
        rows, columns = np.nonzero(one.mask)
        assert one.mask.shape == (40, 60)
        assert one.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_array_equal(found.labels, predictor(image, WORDS).labels)
