"""The confusion matrix and its scores, on an example worked by hand and across processes."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessRaisedException

from maft.evaluation.confusion import ConfusionMatrix, SemanticScores, harmonic_mean, sum_over_processes

NAN = math.nan


@pytest.fixture
def scores():
    """Five classes: 0 half right, 1 all right, 2 missed, 3 predicted but never true, 4 nowhere."""
    truth = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 255, 255])
    found = torch.tensor([0, 0, 1, 3, 1, 1, 0, 0, 4, 1])
    matrix = ConfusionMatrix(5)
    matrix.update(found, truth)
    return SemanticScores.of(matrix.counts)


def test_per_class_by_hand(scores):
    # Class 0: 2 hits, 4 true, 4 predicted; class 1: 2 hits, 2 true, 3 predicted (ignored pixels apart).
    np.testing.assert_allclose(scores.iou, [2 / 6, 2 / 3, 0, NAN, NAN])
    np.testing.assert_allclose(scores.accuracy, [1 / 2, 1, 0, NAN, NAN])


def test_both_denominators_by_hand(scores):
    assert scores.mean_iou() == pytest.approx((1 / 3 + 2 / 3) / 3)
    assert scores.mean_iou(count_predicted=True) == pytest.approx((1 / 3 + 2 / 3) / 4)
    unseen = np.array([False, False, True, True, True])
    assert scores.only(~unseen).mean_iou() == pytest.approx(1 / 2)
    assert scores.only(unseen).mean_iou() == 0
    assert math.isnan(scores.only(np.array([False, False, False, True, True])).mean_iou())


def test_means_by_hand(scores):
    assert scores.means()["mACC"] == pytest.approx(1.5 / 3)
    assert scores.means()["pACC"] == pytest.approx(4 / 8)
    assert scores.frequency_weighted_iou() == pytest.approx((4 / 3 + 4 / 3) / 8)
    assert scores.only(np.array([False, True, False, False, False])).means()["pACC"] == 1


def test_nothing_predicted_counts_as_missed():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0, -1, 7, 255]), torch.tensor([0, 0, 1, 1]))
    scores = SemanticScores.of(matrix.counts)
    np.testing.assert_allclose(scores.iou, [1 / 2, 0])
    assert scores.means()["pACC"] == 1 / 4


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_numbers_of_any_type_that_are_no_class_are_outside(dtype):
    bounds = torch.iinfo(dtype)
    found = torch.tensor([0, 2, 3, bounds.min, bounds.max, bounds.max - 1], dtype=dtype)
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for value in found.tolist():
        place = value if 0 <= value < 3 else 3
        expected[place, place] += 1
    assert torch.equal(ConfusionMatrix(3).update(found, found), expected)


def test_counts_do_not_depend_on_how_pixels_are_split():
    draws = np.random.default_rng(0)
    found, truth = (torch.from_numpy(draws.integers(0, 7, 600)) for _ in range(2))
    whole, parts = ConfusionMatrix(6), ConfusionMatrix(6)
    whole.update(found.view(20, 30), truth.view(20, 30))
    for a, b in zip(found.split(37), truth.split(37)):
        parts.update(a, b)
    assert torch.equal(whole.counts, parts.counts) and whole.counts.sum() == 600


def test_harmonic_mean():
    assert harmonic_mean(0.2, 0.6) == pytest.approx(0.3)
    assert harmonic_mean(0, 0) == 0
    assert math.isnan(harmonic_mean(NAN, 0.5))


def _images():
    draws = np.random.default_rng(1)
    return [[torch.from_numpy(draws.integers(0, 6, (8, 9))) for _ in range(2)] for _ in range(5)]


def _count_share(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    matrix = ConfusionMatrix(5)
    # Unequal shares: three images here, two there.
    for found, truth in _images()[rank::2]:
        matrix.update(found, truth)
    local = matrix.counts.clone()
    total = sum_over_processes(matrix.counts)
    assert torch.equal(matrix.counts, local), "summing twice would double the counts"
    torch.save(total, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_add_up_to_one(tmp_path):
    try:
        torch.multiprocessing.start_processes(_count_share, (str(tmp_path),), nprocs=2, start_method="fork")
    except ProcessRaisedException as error:
        pytest.fail(str(error))
    single = ConfusionMatrix(5)
    for found, truth in _images():
        single.update(found, truth)
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt", weights_only=True), single.counts)


@pytest.mark.gpu
def test_counts_stay_on_the_device_of_the_prediction():
    found, truth = _images()[0]
    on_gpu, on_cpu = ConfusionMatrix(5), ConfusionMatrix(5)
    on_gpu.update(found.cuda(), truth)
    on_cpu.update(found, truth)
    assert on_gpu.counts.is_cuda and torch.equal(on_gpu.counts.cpu(), on_cpu.counts)
