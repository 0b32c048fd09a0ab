"""Calibration error and what thresholds do, against cases that can be counted by hand."""

import numpy as np
import pytest
import torch

from maft.evaluation.calibrate import (
    Observed,
    calibration_error,
    cross_calibrated,
    grid,
    measured,
    risk_curves,
)
from maft.evaluation.calibrate_confidence import fit_confidence

SEEN = np.array([True, True, False, False])


def picture(labels, truth, confidence, calibrated=None):
    shape = (1, len(labels))
    sure = torch.tensor(confidence).view(shape)
    return Observed.of(
        torch.tensor(labels).view(shape),
        sure,
        sure if calibrated is None else torch.tensor(calibrated).view(shape),
        torch.tensor(truth).view(shape),
        words=4,
    )


def test_the_grid_is_all_of_a_small_picture_and_even_on_a_large_one():
    rows, columns = grid((3, 1000))
    assert rows.tolist() == [0, 1, 2]
    assert len(columns) == 128 and columns[0] == 3 and columns[-1] == 996
    assert set(columns.diff().tolist()) <= {7, 8}


def test_what_is_observed_of_a_picture():
    one = picture([0, 0, 2, 3, -1], [0, 1, 1, -1, 0], [0.5, 0.7, 0.2, 0.4, 0.0])
    assert one.highest.tolist() == pytest.approx([0.7, -1, 0.2, 0.4])
    # A pixel that is not annotated says nothing of what is there.
    assert one.absent.tolist() == [False, False, True, True]


def test_risk_curves_count_the_pictures_that_lack_words_of_a_group():
    lacking = picture([0, 2], [0, 0], [0.5, 0.2])
    full = picture([0, 0, 2, 3], [0, 1, 2, 3], [0.5] * 4)
    assert risk_curves([full], SEEN) == {}
    curves = risk_curves([lacking, full], SEEN)
    assert curves["seen"].images == curves["unseen"].images == 1
    assert curves["seen"].risks == (0.0,)
    assert curves["unseen"].risks == (0.5, 0.0)


def test_calibration_error_is_the_mean_gap_of_confidence_and_accuracy():
    one = picture([0, 0, 0, 1, -1, 0], [0, 0, 1, 1, 0, -1], [0.51, 0.51, 0.51, 1.0, 0.0, 0.9], [0.9] * 6)
    assert calibration_error([one], calibrated=False) == pytest.approx(abs(3 * 0.51 - 2) / 4)
    assert calibration_error([one], calibrated=True) == pytest.approx(0.9 - 0.75)


def test_thresholds_take_false_alarms_and_what_they_cost():
    pictures = [picture([0, 0, 1, 2], [0, 0, 0, 2], [0.9, 0.2, 0.3, 0.8]), picture([0, 0, 3, 2], [0] * 4, [0.9] * 4)]
    found = measured([(pictures, [0.5, 0.5, 0.85, 0.95])], SEEN)
    # Class 1 is absent from both pictures, and its pixel goes.
    assert found["seen"].false_alarms == 0 and found["seen"].pictures == 2
    assert (found["seen"].before, found["seen"].after) == (4 / 7, 3 / 7)
    # Of the second picture two unseen words are absent, and one stays.
    assert found["unseen"].false_alarms == pytest.approx((0 + 1 / 2) / 2)
    assert found["unseen"].deviation == pytest.approx(0.25)
    assert found["unseen"].pixels == 1 / 8
    assert (found["unseen"].before, found["unseen"].after) == (0.5, 0.0)


def drawn_pictures(count, pixels=60):
    """Pictures of four words whose answers are right as often as the square of their confidence."""
    torch.manual_seed(0)
    found = []
    for _ in range(count):
        labels, sure = torch.randint(4, (pixels,)), torch.rand(pixels)
        truth = torch.where(torch.rand(pixels) < sure.square(), labels, (labels + 1) % 2)
        found.append(picture(labels.tolist(), truth.tolist(), sure.tolist()))
    return found


def test_a_confidence_that_knows_the_pictures_of_the_thresholds_leaves_the_same_pixels():
    # What bounds the false alarms is the order of pixels, which no rising map changes.
    pictures = drawn_pictures(40)
    plain = risk_curves(pictures, SEEN)
    confidence = fit_confidence(1.0, [one.judged() for one in pictures])
    mapped = [one.calibrated_by(confidence) for one in pictures]
    for group, curve in risk_curves(mapped, SEEN).items():
        assert curve.risks == plain[group].risks
        for alpha in (0.1, 0.3, 0.5):
            least, before = curve.threshold(alpha), plain[group].threshold(alpha)
            for one, other in zip(mapped, pictures, strict=True):
                assert torch.equal(one.compared >= least, other.compared >= before)
                assert (one.highest < 0).tolist() == (other.highest < 0).tolist()


def test_cross_calibration_gives_each_picture_what_the_others_say():
    pictures = drawn_pictures(40)
    known = (torch.rand(10), torch.rand(10) < 0.5)
    found = cross_calibrated(1.0, known, pictures)
    assert len(found) == len(pictures)
    # Whether the answers of a picture are right does not change what it is given.
    wrong = [*pictures]
    wrong[0] = picture(
        pictures[0].labels.tolist(), ((pictures[0].labels + 1) % 4).tolist(), pictures[0].compared.tolist()
    )
    assert torch.equal(cross_calibrated(1.0, known, wrong)[0].compared, found[0].compared)
    assert calibration_error(found, calibrated=True) < calibration_error(pictures, calibrated=False) / 2
