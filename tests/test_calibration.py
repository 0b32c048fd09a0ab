"""The rule of conformal risk control against its theorem, and the file that thresholds are kept in."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maft.calibration import VERSION, Calibration, Rejection, RiskCurve, calibration_path
from maft.confidence import CalibratedConfidence
from maft.errors import UserError

# Highest confidences of absent words, -1 for words that are not answered.
levels = st.one_of(st.just(-1.0), st.floats(0, 1, width=32))
pictures = st.lists(st.lists(levels, min_size=1, max_size=5), min_size=1, max_size=20)
shares = st.floats(0.01, 1)


def risk(highest, threshold):
    return np.mean([np.mean(np.float32(one) >= np.float32(threshold)) for one in highest])


def rates(highest, threshold):
    """The left side of the rule."""
    count = len(highest)
    return count / (count + 1) * risk(highest, threshold) + 1 / (count + 1)


@settings(deadline=None)
@given(pictures)
def test_a_curve_holds_the_mean_loss_at_every_threshold(highest):
    curve = RiskCurve.of([np.float32(one) for one in highest])
    curve.check()
    for threshold, expected in zip(curve.thresholds, curve.risks, strict=True):
        assert risk(highest, threshold) == pytest.approx(expected)


@settings(deadline=None)
@given(pictures, shares, shares)
def test_a_threshold_is_the_least_that_the_rule_allows_and_falls_with_alpha(highest, first, second):
    curve = RiskCurve.of([np.float32(one) for one in highest])
    low, high = sorted((first, second))
    if low * (len(highest) + 1) < 1:
        with pytest.raises(UserError, match="takes at least"):
            curve.threshold(low)
        return
    threshold = curve.threshold(low)
    assert rates(highest, threshold) <= low + 1e-9
    if threshold > 0:
        assert rates(highest, np.nextafter(np.float32(threshold), np.float32(0))) > low - 1e-9
    assert curve.threshold(high) <= threshold


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_the_bound_holds_over_exchangeable_draws(alpha):
    draws = np.random.default_rng(0)
    losses = []
    for _ in range(1000):
        # Pictures differ: some are full of false alarms, and each has another number of absent words.
        hardness = draws.beta(0.5, 1, 25)
        highest = [
            np.where(draws.random(words) < 2 * hard, draws.random(words) ** (1 - hard), -1).astype(np.float32)
            for hard, words in zip(hardness, draws.integers(1, 6, 25), strict=True)
        ]
        threshold = RiskCurve.of(highest[:-1]).threshold(alpha)
        losses.append(np.mean(highest[-1] >= np.float32(threshold)))
    sigma = np.std(losses) / np.sqrt(len(losses))
    assert alpha - 0.07 < np.mean(losses) <= alpha + 2 * sigma


def test_too_few_pictures_say_how_many_it_takes():
    curve = RiskCurve.of([np.float32([-1.0])] * 9)
    assert curve.threshold(0.1) == 0
    with pytest.raises(UserError, match=r"alpha 0.05 takes at least 19 .* there are 9: .* 0.1 or more"):
        curve.threshold(0.05)


def calibration(**changes):
    curve = RiskCurve.of([np.float32([0.25, -1.0]), np.float32([0.5])] * 10)
    parts = {
        "model": "abc",
        "facts": {"INPUT.MIN_SIZE_TEST": 640, "MODEL.VOCABULARY.TEMPLATES": ["a {}."]},
        "dataset": "held_out",
        "words": ("cat", "dog"),
        "confidence": CalibratedConfidence(0.4, (0.0, 0.5, 1.0), (0.0, 0.2, 0.9)),
        "confidence_images": 5,
        "groups": {"seen": curve},
    }
    return Calibration(**{**parts, **changes})


def test_what_is_written_is_read(tmp_path):
    calibration().write(tmp_path / "calibration.json")
    assert Calibration.read(tmp_path / "calibration.json") == calibration()


@pytest.mark.parametrize("change", ["confidence", "version", "checksum", "groups"])
def test_files_that_are_not_what_was_written(tmp_path, change):
    path = tmp_path / "calibration.json"
    calibration().write(path)
    content = json.loads(path.read_text())
    content[change] = {"confidence": {}, "version": 1, "checksum": None, "groups": {}}[change]
    path.write_text(json.dumps(content))
    sentence = "has the version 1, not 2" if change == "version" else "was changed after it was written"
    with pytest.raises(UserError, match=f"{sentence}.*calibrate again"):
        Calibration.read(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_files_that_hold_no_calibration(tmp_path, text):
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(UserError, match="calibrate again with maft calibrate"):
        Calibration.read(tmp_path / "calibration.json")


def signed(path, **changes):
    """Writes a calibration with other parts under the checksum that belongs to them."""
    content = json.loads(json.dumps({"version": VERSION, **dataclasses.asdict(calibration())}))
    for place, value in changes.items():
        *outer, last = place.split("__")
        part = content
        for key in outer:
            part = part[key]
        part[last] = value
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    path.write_text(json.dumps({**content, "checksum": checksum}))


def test_what_is_signed_is_read(tmp_path):
    signed(tmp_path / "calibration.json", dataset="other")
    assert Calibration.read(tmp_path / "calibration.json") == calibration(dataset="other")


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2.0},
        {"words": []},
        {"words": "cat"},
        {"words": [1]},
        {"more": 1},
        {"confidence__more": 1},
        {"confidence__temperature": True},
        {"confidence__temperature": "0.4"},
        {"confidence__temperature": float("nan")},
        {"confidence__temperature": 10**400},
        {"confidence__chances": [0, 0.2, 0.9]},
        {"confidence_images": 0},
        {"confidence_images": True},
        {"groups__seen__images": 20.0},
        {"groups__seen__images": True},
        {"groups__seen__images": 10**400},
        {"groups__seen__thresholds": [0.0, 0.5, 7.0]},
        {"groups__seen__more": 1},
        {"groups__all": {"images": 1, "thresholds": [0.0], "risks": [0.0]}},
    ],
)
def test_parts_that_no_calibration_has_are_refused_even_if_signed(tmp_path, changes):
    signed(tmp_path / "calibration.json", **changes)
    with pytest.raises(UserError, match="(holds no|cannot be read as a) calibration.*calibrate again"):
        Calibration.read(tmp_path / "calibration.json")


@pytest.mark.parametrize(
    ("written", "damaged"), [("0.4", "NaN"), ("0.4", "-Infinity"), ('"abc"', r'"\ud800"'), ('"cat"', r'"\udfff"')]
)
def test_a_damaged_part_that_cannot_be_written_again_gets_a_sentence(tmp_path, written, damaged):
    path = tmp_path / "calibration.json"
    calibration().write(path)
    assert written in path.read_text()
    path.write_text(path.read_text().replace(written, damaged, 1))
    with pytest.raises(UserError, match="cannot be read as a calibration.*calibrate again"):
        Calibration.read(path)


def test_a_word_that_is_surest_of_all_still_has_a_threshold(tmp_path):
    found = calibration(groups={"seen": RiskCurve.of([np.float32([1.0])] * 3)})
    found.write(tmp_path / "calibration.json")
    assert Calibration.read(tmp_path / "calibration.json") == found


@pytest.mark.parametrize(
    ("thresholds", "risks"),
    [((0.0,), (0.5,)), ((0.0, 0.2), (0.1, 0.2)), ((0.1,), (0.0,)), ((0.0, 0.5, 0.4), (0.3, 0.2, 0.0)), ((), ())],
)
def test_numbers_that_are_no_risk_curve(tmp_path, thresholds, risks):
    calibration(groups={"seen": RiskCurve(3, thresholds, risks)}).write(tmp_path / "calibration.json")
    with pytest.raises(UserError, match="holds no calibration"):
        Calibration.read(tmp_path / "calibration.json")


def test_a_confidence_that_does_not_rise(tmp_path):
    calibration(confidence=CalibratedConfidence(0.4, (0.0, 1.0), (0.9, 0.1))).write(tmp_path / "calibration.json")
    with pytest.raises(UserError, match="holds no calibration"):
        Calibration.read(tmp_path / "calibration.json")


def test_another_model_and_another_use_of_it():
    calibration().check_model("abc", {**calibration().facts, "NEW.KEY": 1})
    with pytest.raises(UserError, match="of a model with other weights"):
        calibration().check_model("abd", calibration().facts)
    with pytest.raises(UserError, match="with INPUT.MIN_SIZE_TEST 640, not 800: calibrate this model"):
        calibration().check_model("abc", {**calibration().facts, "INPUT.MIN_SIZE_TEST": 800})


def test_a_group_without_absent_words_is_not_bounded():
    assert calibration().thresholds(1, [True, False]) == [0.0, 0.0]
    assert calibration().thresholds(0.4, [True, True]) == [np.nextafter(np.float32(0.5), np.float32(1))] * 2
    with pytest.raises(UserError, match="had no absent unseen words.*with --absent"):
        calibration().thresholds(0.4, [True, False])


def test_pixels_below_the_threshold_of_their_word_lose_it():
    labels = torch.tensor([[0, 0, 1, 1, -1]])
    confidence = torch.tensor([[0.3, 0.5, 0.3, 0.1, 0.0]])
    assert Rejection((0.4, 0.2)).apply(labels, confidence).tolist() == [[-1, 0, 1, -1, -1]]
    assert Rejection((0.4, 0.2), none_below=0.35).apply(labels, confidence).tolist() == [[-1, 0, -1, -1, -1]]
    assert torch.equal(Rejection((0.0, 0.0)).apply(labels, confidence), labels)


def test_confidence_is_the_plain_one_or_the_calibrated_one():
    result = {"sem_seg_confidence": torch.tensor([[0.3]]), "sem_seg_tempered": torch.tensor([[0.6]])}
    assert Rejection((0.0,)).confidence(result) is result["sem_seg_confidence"]
    calibrated = CalibratedConfidence(0.4, (0.0, 1.0), (0.1, 0.7))
    rejection = Rejection((0.0,), calibrated=calibrated)
    assert rejection.temperature == 0.4
    assert torch.equal(rejection.confidence(result), calibrated.of(result["sem_seg_tempered"]))


def test_a_calibration_lies_beside_its_checkpoint(tmp_path):
    assert calibration_path(tmp_path) == tmp_path / "calibration.json"
    assert calibration_path(tmp_path / "model.safetensors") == tmp_path / "calibration.json"
    assert calibration_path(tmp_path / "best.safetensors") == tmp_path / "best.calibration.json"
