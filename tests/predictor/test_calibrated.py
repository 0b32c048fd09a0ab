"""What a calibrated model leaves unknown, and that it is the model of before without a bound."""

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch

from maft.calibration import Calibration, RiskCurve
from maft.errors import UserError
from maft.evaluation.calibrate_confidence import fit_confidence
from maft.miniature import miniature_classes, render_scene
from maft.predictor import Predictor
from maft.predictor.calibrating import calibration_from, fitted_temperature, observed

WORDS = list(miniature_classes().names)
# Of the calibration that the tests use: every second word of a group goes with the first of these alphas.
LOW, HIGH = 0.2, 0.9
LEAST = 0.97


def scenes(numbers):
    for number in numbers:
        scene = render_scene(number, "val", 5)
        yield scene.image, scene.sem_seg.astype(np.int64)


def made(predictor, words, first, last):
    """A calibration of the first so many scenes and those up to the last."""
    temperature, known = fitted_temperature(predictor, words, scenes(range(first)))
    pictures = observed(predictor, words, scenes(range(first, last)), temperature)
    confidence = fit_confidence(temperature, [known, *(one.judged() for one in pictures)])
    calibrated = [one.calibrated_by(confidence) for one in pictures]
    return calibration_from(predictor, words, "scenes", confidence, first, calibrated)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The shipped model with a calibration whose thresholds take much away."""
    predictor = Predictor.from_pretrained("miniature")
    folder = predictor.save_pretrained(tmp_path_factory.mktemp("calibrated"))
    words = predictor.vocabulary(WORDS)
    found = made(predictor, words, 4, 10)
    strict = RiskCurve(19, (0.0, LEAST), (0.5, 0.0))
    dataclasses.replace(found, groups={"seen": strict, "unseen": strict}).write(folder / "calibration.json")
    return folder


@pytest.fixture(scope="module")
def calibrated(folder):
    return Predictor.from_pretrained(folder)


@pytest.fixture(scope="module")
def scene():
    return render_scene(13, "val", 5).image


def test_the_shipped_model_is_calibrated(scene):
    found = Predictor.from_pretrained("miniature")(scene, WORDS, alpha=0.05)
    assert found.alpha == 0.05


def test_alpha_1_is_the_answer_without_a_calibration_bit_for_bit(calibrated, scene):
    plain = Predictor.from_pretrained("miniature")(scene, WORDS, "all", none_below=0.3)
    for found in (
        calibrated(scene, WORDS, "all", none_below=0.3, alpha=1),
        calibrated(scene, WORDS, "all", none_below=0.3),
    ):
        assert np.array_equal(found.labels, plain.labels) and np.array_equal(found.confidence, plain.confidence)
        assert np.array_equal(found.segment_ids, plain.segment_ids)
        assert json.dumps(found.to_json()) == json.dumps(plain.to_json())


def test_a_bound_takes_unsure_pixels_and_changes_no_other_label(calibrated, scene):
    plain, loose, strict = (calibrated(scene, WORDS, alpha=alpha) for alpha in (1, HIGH, LOW))
    assert np.array_equal(loose.labels, plain.labels) and not np.array_equal(loose.confidence, plain.confidence)
    kept = strict.confidence >= np.float32(LEAST)
    assert 0.01 < strict.unknown < 0.99 and np.array_equal(strict.labels, np.where(kept, plain.labels, -1))
    assert np.array_equal(strict.confidence, loose.confidence)
    assert strict.to_json()["alpha"] == LOW and strict.to_json()["unknown"] == strict.unknown == (~kept).mean()
    assert f"unknown {strict.unknown:.0%}" in strict.described()
    last = strict.summary()[-1]
    assert (last["name"], last["label"], last["share"], last["area"]) == ("unknown", -1, strict.unknown, (~kept).sum())
    assert all(row["label"] >= 0 for row in [*plain.summary(), *strict.to_json()["classes"]])


def test_segments_and_instances_of_words_that_no_pixel_keeps_go(calibrated, scene):
    plain, strict = (calibrated(scene, WORDS, "all", alpha=alpha) for alpha in (1, LOW))
    remaining = set(np.unique(strict.labels)) - {-1}
    gone = {segment["label"] for segment in plain.segments} - remaining
    assert gone, "the scene tests nothing"
    assert [segment for segment in plain.segments if segment["label"] in remaining] == list(strict.segments)
    assert set(np.unique(strict.segment_ids)) == {0, *(segment["id"] for segment in strict.segments)}
    assert {instance.label for instance in strict.instances} <= remaining
    assert len(strict.instances) < len(plain.instances)


def test_none_below_is_compared_with_the_calibrated_confidence(calibrated, scene):
    found = calibrated(scene, WORDS, alpha=HIGH, none_below=0.9)
    assert np.array_equal(found.labels < 0, found.confidence < 0.9)


def test_many_pictures_have_the_same_bound(calibrated, scene):
    (listed,), streamed = calibrated([scene], WORDS, alpha=LOW), next(calibrated.stream([scene], WORDS, alpha=LOW))
    assert np.array_equal(listed.labels, streamed.labels) and (listed.labels < 0).any()


def test_averaged_inference_is_calibrated_as_it_is_used(folder, scene):
    overrides = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "[96]"]
    averaged = Predictor.from_pretrained(folder, overrides)
    with pytest.raises(UserError, match="with TEST.AUG.ENABLED False, not True: calibrate this model"):
        averaged(scene, WORDS, alpha=LOW)
    words = averaged.vocabulary(WORDS)
    averaged.calibration = made(averaged, words, 2, 6)
    found = averaged(scene, WORDS, alpha=0.5)
    assert ((found.confidence > 0) & (found.confidence <= 1)).all()


def test_a_model_that_sees_bgr_has_a_calibration_of_its_own(folder, scene):
    other = Predictor.from_pretrained(folder, ["INPUT.FORMAT", "BGR"])
    with pytest.raises(UserError, match="with INPUT.FORMAT RGB, not BGR: calibrate this model"):
        other(scene, WORDS, alpha=LOW)


def test_sampled_scores_are_those_of_the_labels(calibrated, scene):
    words = calibrated.vocabulary(WORDS)
    scores, labels = calibrated.scores(scene, scene, words, (96, 96))
    assert scores.shape == (24, 96, 96)
    assert torch.equal(labels, torch.from_numpy(calibrated(scene, WORDS).labels))
    assert torch.equal(scores.argmax(0), labels)


def test_a_saved_model_takes_its_calibration_along(calibrated, folder, tmp_path):
    calibrated.save_pretrained(tmp_path)
    assert (tmp_path / "calibration.json").read_bytes() == (folder / "calibration.json").read_bytes()
    again = Predictor.from_pretrained(tmp_path)
    assert again.calibration == Calibration.read(folder / "calibration.json")


@pytest.mark.parametrize("alpha", [0, -0.1, 1.1, float("nan"), "0.1", True, None])
def test_alpha_lies_above_0_and_up_to_1(calibrated, scene, alpha):
    with pytest.raises(UserError, match="alpha is"):
        calibrated(scene, WORDS, alpha=alpha)


def test_boxes_and_points_have_no_bound(calibrated, scene):
    with pytest.raises(UserError, match="boxes and points show objects that are there: leave one of them out"):
        calibrated(scene, WORDS, alpha=LOW, boxes=[[1, 1, 20, 20]])


def test_a_bound_that_so_few_pictures_do_not_give(calibrated, scene):
    with pytest.raises(UserError, match="alpha 0.01 takes at least 99 calibration images .* there are 19"):
        calibrated(scene, WORDS, alpha=0.01)


def test_models_without_a_calibration_say_the_command(tiny_configs, calibrated, scene, tmp_path):
    with pytest.raises(UserError, match="no calibration of a model without MODEL.WEIGHTS.*run maft calibrate"):
        Predictor.from_config(tiny_configs / "maft.yaml")(scene, WORDS, alpha=0.1)
    calibrated.save_pretrained(tmp_path)
    (tmp_path / "calibration.json").unlink()
    with pytest.raises(UserError, match=f"no calibration beside {tmp_path}.*run maft calibrate --model {tmp_path}"):
        Predictor.from_pretrained(tmp_path)(scene, WORDS, alpha=0.1)


def test_a_calibration_of_other_weights(calibrated, folder, scene, tmp_path):
    calibrated.save_pretrained(tmp_path)
    found = Calibration.read(folder / "calibration.json")
    dataclasses.replace(found, model="0" * 64).write(tmp_path / "calibration.json")
    with pytest.raises(UserError, match="that of a model with other weights: calibrate this model with maft calibrate"):
        Predictor.from_pretrained(tmp_path)(scene, WORDS, alpha=LOW)


def test_words_that_were_never_offered_are_warned_of_once(calibrated, scene, caplog):
    with caplog.at_level(logging.WARNING):
        calibrated(scene, ["red", "blue"], alpha=LOW)
        calibrated(scene, ["red", "blue"], alpha=LOW)
    warnings = [record.getMessage() for record in caplog.records if "calibration" in record.getMessage()]
    assert len(warnings) == 1 and "bounds false alarms of words that are offered alike" in warnings[0]
    with caplog.at_level(logging.WARNING):
        calibrated(scene, ["red", "bee"], alpha=LOW)
    assert sum("calibration" in record.getMessage() for record in caplog.records) == 1


def test_classes_with_examples_are_warned_of_once(calibrated, scene, caplog):
    """The calibration saw words alone, and a class without words is none of those that it was made with."""
    labels = render_scene(13, "val", 5).sem_seg
    masks = [calibrated.example(scene, mask=labels == labels[0, 0])]
    grown = calibrated.vocabulary(["bee", "sand"]).add("fan", masks, words=False)
    with caplog.at_level(logging.WARNING):
        calibrated(scene, grown, alpha=1)
        assert not caplog.messages
        for _ in range(2):
            calibrated(scene, grown, alpha=LOW)
        (warning,) = caplog.messages
        assert "saw words alone, and fan has examples" in warning
        calibrated(scene, calibrated.vocabulary(["green", "pink"]).add("fan", masks, words=False), alpha=LOW)
    assert any("None of the words" in message for message in caplog.messages)


def test_a_class_that_examples_show_is_bounded_as_one_of_words(calibrated, scene):
    largest = np.bincount(render_scene(13, "val", 5).sem_seg.flatten()).argmax()
    others = [name for index, name in enumerate(WORDS) if index != largest]
    masks = [calibrated.example(scene, mask=render_scene(13, "val", 5).sem_seg == largest)]
    words = calibrated.vocabulary(others).add("shown", masks, words=False)
    plain, strict = (calibrated(scene, words, alpha=alpha) for alpha in (1, LOW))
    assert strict.class_names == (*others, "shown") and (plain.labels == len(others)).any()
    kept = strict.confidence >= np.float32(LEAST)
    assert kept.any() and np.array_equal(strict.labels, np.where(kept, plain.labels, -1))
    without = calibrated(scene, words.remove("shown"), alpha=LOW)
    assert np.array_equal(without.labels, calibrated(scene, others, alpha=LOW).labels)
