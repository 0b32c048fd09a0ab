"""Ranks, wrong names, calibration, similarity and worst masks, against what was put there by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools import mask as run_lengths

from maft.clip import load_clip
from maft.conformance import texts
from maft.ensembles import FCCLIPEnsemble
from maft.evaluation.explain.coalitions import Coalitions
from maft.evaluation.explain.evidence import Evidence, Rule
from maft.evaluation.explain.explaining import _segments
from maft.evaluation.explain.stages import Cover
from maft.evaluation.explain.statistics import CalibrationStatistics, NameStatistics, class_cosines
from maft.evaluation.explain.worst import WorstMasks
from maft.evaluation.semantic import SemanticEvaluator
from maft.structures import Classification, Proposals, Vocabulary

NAMES = ("cat", "dog", "brick")
OPTIONS = {
    "semantic": True, "panoptic": False, "instance": False, "labels_only": True, "resize_before": False,
    "seen_penalty": 0.0, "background_below": 0.0, "best_masks_above": 0.0,
}  # fmt: skip


def counted():
    statistics = NameStatistics(NAMES)
    # Three right masks, and one that is half and half and a third.
    pixels = torch.tensor([[10, 0, 0], [0, 6, 2], [4, 0, 0], [2, 2, 2]])
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [1.0, 2.0, 0.0], [0.0, 0.0, 9.0]])
    statistics.add(Cover(pixels, torch.ones(4, dtype=torch.bool)), logits)
    return statistics


def test_ranks_and_wrong_names_are_those_of_right_masks():
    statistics = counted()
    assert statistics.name_ranks().masks == (1, 1, 1) and statistics.name_ranks().pixels == (10, 4, 6)
    first, second = statistics.confusions(None)
    assert (first.true, first.named, first.pixels, first.share) == ("dog", "cat", 6, 1)
    assert (second.true, second.named, second.pixels) == ("cat", "dog", 4)
    assert second.share == pytest.approx(4 / 14) and second.similarity is None


def test_similarity_counts_each_pair_of_a_class_that_is_shown():
    cosines = torch.tensor([[1.0, 0.8, 0.1], [0.8, 1.0, 0.2], [0.1, 0.2, 1.0]])
    bins = counted().similarity(cosines)
    assert [one.pairs for one in bins] == [1, 1, 2]
    assert bins[-1].rate == pytest.approx((1 + 4 / 14) / 2) and bins[0].rate == 0
    assert bins[0].low == pytest.approx(0.1) and bins[-1].high == pytest.approx(0.8)
    assert counted().similarity(None) == ()


def test_the_cosine_of_classes_is_the_largest_over_their_texts():
    text = texts(load_clip("tiny_vit"), void=False)
    assert torch.allclose(class_cosines(text).diagonal(), torch.ones(3), atol=1e-5)
    joined = replace(text, row_class=torch.tensor([0, 0, 1]), num_classes=2)
    units = torch.nn.functional.normalize(text.embeddings.detach(), dim=-1)
    assert class_cosines(joined)[0, 1] == pytest.approx(float((units[:2] @ units[2]).max()), abs=1e-6)
    assert class_cosines(replace(text, embeddings=text.embeddings[None])) is None


def scene():
    """A cat on the left that is called a dog by the classifier, a brick on the right that no mask shows."""
    truth = torch.zeros(6, 8, dtype=torch.int64)
    truth[:, 4:], truth[0] = 2, -1
    masks = torch.where(truth == 0, 9.0, -9.0)[None, None]
    proposer, classifier = torch.zeros(1, 1, 4), torch.tensor([[[1.0, 4.0, 0.0]]])
    proposals = Proposals(masks, (6, 8), class_logits=proposer)
    return Evidence("a.png", proposals, Classification(classifier), (6, 8), truth)


def test_the_worst_masks_are_told_with_their_causes():
    one, rule = scene(), Rule(FCCLIPEnsemble(), OPTIONS, Vocabulary(NAMES))
    cover = Cover.of(one, rule)
    worst = WorstMasks(rule, NAMES, 10)
    worst.add(one, cover, Coalitions.of(one, rule, cover))
    found = {mask.cause: mask for mask in worst.worst_masks()}
    assert set(found) == {"names", "masks"}
    cat, brick = found["names"], found["masks"]
    assert (cat.true, cat.predicted, cat.named, cat.pixels) == ("cat", "dog", "dog", 20)
    assert np.array_equal(run_lengths.decode(cat.lost), (one.truth == 0).numpy())
    assert np.array_equal(run_lengths.decode(cat.mask), (one.truth == 0).numpy())
    assert set(cat.scores) == {"classifier", "proposer", "final"} and cat.scores["classifier"]["dog"] > 0.9
    assert (brick.true, brick.mask, brick.named, brick.scores, brick.pixels) == ("brick", None, None, {}, 20)


def test_no_more_of_the_worst_masks_are_kept_than_asked_for():
    one, rule = scene(), Rule(FCCLIPEnsemble(), OPTIONS, Vocabulary(NAMES))
    cover = Cover.of(one, rule)
    for most in (0, 1, 5):
        worst = WorstMasks(rule, NAMES, most)
        for number in range(4):
            worst.add(replace(one, file=str(number)), cover, Coalitions.of(one, rule, cover))
        assert len(worst.worst_masks()) == most
    # Of as many pixels, the first image's.
    assert worst.worst_masks()[0].file == "0"


def test_calibration_weighs_gaps_by_pixels():
    one, rule = scene(), Rule(FCCLIPEnsemble(), OPTIONS, Vocabulary(NAMES))
    counts = Coalitions.of(one, rule, Cover.of(one, rule))
    labels = one.truth.clone().int()
    labels[1] = 1
    confidence = torch.where(one.truth == 0, 0.95, 0.05)
    statistics = CalibrationStatistics()
    statistics.add(one, replace(counts, labels=labels, confidence=confidence))
    calibration = statistics.calibration()
    assert sum(bin_.pixels for bin_ in calibration.bins) == 40 and len(calibration.bins) == 15
    assert calibration.bins[-1].accuracy == pytest.approx(0.8) and math.isnan(calibration.bins[7].accuracy)
    assert calibration.error == pytest.approx(0.5 * 0.15 + 0.5 * 0.75, abs=1e-6)


def test_panoptic_segments_are_those_of_offered_classes_without_crowds(tmp_path):
    from PIL import Image

    from maft.data.reading import panoptic_colours

    ids = np.array([[7, 7, 900, 900], [3, 3, 0, 5]])
    Image.fromarray(panoptic_colours(ids)).save(tmp_path / "a.png")
    infos = [
        {"id": 900, "category_id": 2}, {"id": 7, "category_id": 0}, {"id": 3, "category_id": 1, "iscrowd": 1},
        {"id": 5, "category_id": 1},
    ]  # fmt: skip
    record = {"pan_seg_file_name": str(tmp_path / "a.png"), "segments_info": infos, "sem_seg_file_name": ""}
    evaluator = SemanticEvaluator(NAMES, 255, seen=[True, False, False], protocol="unseen_only")
    numbers, classes = _segments(record, evaluator, torch.zeros(2, 4))
    assert classes.tolist() == [1, 0]
    assert numbers.tolist() == [[-1, -1, 0, 0], [-1, -1, -1, 1]]
