"""Intervals and tests of paired runs: against definitions, SciPy's, and what has to be noise."""

import numpy as np
import pytest
import torch
from counted_runs import NAMES, run
from scipy.stats import bootstrap

from maft.evaluation import PanopticEvaluator
from maft.evaluation.confusion import SemanticScores
from maft.evaluation.counts import Counts
from maft.evaluation.image_sums import PanopticSums, SemanticSums, image_sums
from maft.evaluation.resampling import adjusted_p_values, bca_interval, differences, p_values


@pytest.mark.parametrize("protocol", ["generalized", "unseen_only"])
def test_scores_of_sums_are_those_of_the_evaluator(protocol):
    counts, evaluator = run(0.3, protocol=protocol)
    sums = SemanticSums(counts)
    results = evaluator.evaluate()["sem_seg"]
    assert sums.names[-1] == "IoU-d" and len(sums) == 40
    found = dict(zip(sums.names, 100 * sums.scores(sums.total())[0]))
    assert found == pytest.approx({name: results[name] for name in found}, rel=1e-12)
    assert ("harmonic_mIoU" in found) == (protocol == "generalized")
    # Some images twice, others not at all.
    weights = np.random.default_rng(0).integers(0, 3, (5, 40)).astype(float)
    table = counts.tables["sem_seg"]
    for row, scores in zip(weights, sums.scores(np.asarray((sums.parts.T @ weights.T).T))):
        matrix = torch.zeros(len(counts.offered) + 1, len(counts.offered) + 1, dtype=torch.float64)
        values = table["count"].double() * torch.from_numpy(row)[table["image"].long()]
        matrix.index_put_((table["predicted"].long(), table["true"].long()), values, accumulate=True)
        assert scores[0] == pytest.approx(SemanticScores.of(matrix).mean_iou(), rel=1e-12)


def test_a_score_that_is_not_defined_is_nan():
    counts, _ = run(0.3)
    sums = SemanticSums(counts)
    scores = dict(zip(sums.names, sums.scores(np.zeros((1, sums.parts.shape[1])))[0]))
    assert all(map(np.isnan, scores.values()))
    # Only seen class a is true, and all of it wrong.
    row = np.zeros((1, 12))
    row[0, 4], row[0, 9] = 5, 5
    scores = dict(zip(sums.names, sums.scores(row)[0]))
    assert scores["mIoU"] == scores["seen_mIoU"] == scores["pACC"] == 0 and np.isnan(scores["unseen_mIoU"])
    assert np.isnan(scores["harmonic_mIoU"])


def test_panoptic_scores_of_sums_are_those_of_the_evaluator():
    counts, _ = run(0.3)
    draws = np.random.default_rng(0)
    evaluator = PanopticEvaluator(NAMES, counts.of.things, images=counts.of.files)
    for file in counts.of.files:
        truth = draws.integers(0, 4, (6, 6)).repeat(3, 0)
        found = np.where(draws.random(truth.shape) < 0.4, draws.integers(0, 4, truth.shape), truth)
        segments = [{"id": one, "category_id": (one + int(draws.integers(2))) % 4} for one in range(1, 4)]
        evaluator.add(torch.from_numpy(truth), segments, torch.from_numpy(found), segments, file)
    panoptic = Counts(counts.of, {"panoptic_seg": evaluator.rows.gathered()}, counts.pictures, counts.annotations)
    (sums,) = image_sums(panoptic)
    assert isinstance(sums, PanopticSums)
    results = evaluator.evaluate()["panoptic_seg"]
    found = dict(zip(sums.names, 100 * sums.scores(sums.total())[0]))
    assert found == pytest.approx({name: results[name] for name in found}, rel=1e-12)


def test_the_interval_is_scipys():
    values = np.random.default_rng(0).exponential(size=40)
    places = np.random.default_rng(1).integers(0, 40, (20_000, 40))
    drawn = values[places].mean(axis=1)[:, None]
    without_each = ((values.sum() - values) / 39)[:, None]
    low, high = bca_interval(values.mean(keepdims=True), drawn, without_each, level=0.95)
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(2))
    assert low[0] == pytest.approx(theirs.confidence_interval.low, abs=0.03)
    assert high[0] == pytest.approx(theirs.confidence_interval.high, abs=0.03)


def test_resamples_without_a_class_are_left_out_of_its_interval():
    drawn = np.random.default_rng(0).normal(size=(2000, 2))
    some = np.where(np.random.default_rng(1).random((2000, 2)) < 0.3, np.nan, drawn)
    some[:, 0] = np.nan
    low, high = bca_interval(np.array([np.nan, 0.0]), some, np.zeros((5, 2)))
    assert np.isnan(low[0]) and np.isnan(high[0])
    known = some[np.isfinite(some[:, 1]), 1:]
    alone = bca_interval(np.zeros(1), known, np.zeros((5, 1)))
    assert (low[1], high[1]) == (alone[0][0], alone[1][0])


def test_p_values_count_the_observation_itself():
    exchanged = np.array([[0.1], [-0.3], [0.2]])
    assert p_values(np.array([0.2]), exchanged) == pytest.approx([3 / 4])
    assert p_values(np.array([0.5]), exchanged) == pytest.approx([1 / 4])
    assert np.isnan(p_values(np.array([np.nan]), exchanged))


def test_adjusted_p_values_are_those_of_a_loop():
    draws = np.random.default_rng(0)
    exchanged = draws.normal(size=(500, 6)) * [1, 2, 3, 4, 5, 6]
    observed = np.array([3.1, -5.0, 1.0, 9.0, np.nan, 0.1])
    scale = np.sqrt((exchanged**2).mean(axis=0))
    sizes, expected, before = abs(observed) / scale, {}, 0.0
    left = sorted((place for place in range(6) if place != 4), key=lambda place: -sizes[place])
    # The one that is not defined stands below all others.
    for rank, place in enumerate(left):
        largest = (abs(exchanged) / scale)[:, [*left[rank:], 4]].max(axis=1)
        before = max(before, (1 + (largest >= sizes[place]).sum()) / 501)
        expected[place] = before
    found = adjusted_p_values(observed, exchanged)
    assert np.isnan(found[4]) and {place: found[place] for place in left} == pytest.approx(expected)


def test_a_run_does_not_differ_from_itself_and_does_from_a_worse_one():
    good, bad = (SemanticSums(run(wrong, seed)[0]) for wrong, seed in ((0.2, 1), (0.5, 2)))
    same = differences(good, good, resamples=300)
    assert not same.significant.any() and (same.p == 1).all() and (same.low == 0).all() and (same.high == 0).all()
    worse = differences(good, bad, resamples=1000)
    assert worse.significant[0] and worse.difference[0] < 0 and worse.high[0] < 0
    back = differences(bad, good, resamples=1000)
    np.testing.assert_allclose(back.difference, -worse.difference)
    assert np.array_equal(differences(bad, good, resamples=1000).low, back.low)


def test_two_runs_of_one_kind_are_noise():
    noise = 0
    for seed in range(30):
        pair = [SemanticSums(run(0.3, 2 * seed + one)[0]) for one in range(2)]
        noise += not differences(*pair, resamples=300, seed=seed).significant[0]
    assert noise >= 28


def test_the_first_block_of_a_large_comparison_is_not_its_whole(monkeypatch):
    good, bad = (SemanticSums(run(wrong, seed)[0]) for wrong, seed in ((0.2, 1), (0.5, 2)))
    whole = differences(good, bad, resamples=500)
    monkeypatch.setattr("maft.evaluation.resampling._MOST_WEIGHTS", 40 * 7)
    parts = differences(good, bad, resamples=500)
    np.testing.assert_allclose(parts.difference, whole.difference)
    np.testing.assert_allclose(parts.low, whole.low, atol=0.02)
