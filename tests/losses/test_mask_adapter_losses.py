"""Mask-Adapter's and MAFT+'s losses against their formulas."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from maft.errors import UserError
from maft.interfaces import MaskClassifier
from maft.losses.mask_aware import MaskAwareLoss, mask_aware_loss
from maft.losses.mask_consistency import MaskConsistencyLoss, mask_consistency_loss
from maft.losses.mask_cross_entropy import MaskCrossEntropyLoss, mask_cross_entropy
from maft.losses.representation_compensation import (
    RepresentationCompensationLoss,
    representation_compensation_loss,
    strip_sums,
)
from maft.matching import soft_iou
from maft.registry import LOSSES
from maft.structures import Classification, Images, Proposals, Targets


def step(**values):
    names = ("images", "text", "proposals", "classification", "targets", "classifier", "clip")
    return SimpleNamespace(**{**dict.fromkeys(names), **values})


def test_cross_entropy_counts_labelled_masks_alone():
    logits, labels = torch.randn(2, 5, 4, requires_grad=True), torch.tensor([[0, -1, 3, -1, 2], [-1] * 5])
    chosen = logits.log_softmax(-1)[labels >= 0]
    expected = -chosen.gather(1, labels[labels >= 0][:, None]).mean()
    torch.testing.assert_close(mask_cross_entropy(logits, labels), expected)
    empty = mask_cross_entropy(logits, torch.full_like(labels, -1))
    empty.backward()
    assert empty == 0 and logits.grad is not None


def test_consistency_is_the_mean_cosine_distance_of_the_pairs_that_count():
    predicted, wanted = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    counted = torch.tensor([[True, False, True], [False, False, True]])
    distance = torch.stack([1 - F.cosine_similarity(a, b, dim=0) for a, b in zip(predicted[counted], wanted[counted])])
    torch.testing.assert_close(mask_consistency_loss(predicted, wanted, counted), distance.mean())
    assert mask_consistency_loss(predicted, wanted, torch.zeros_like(counted)) == 0


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("free", [True, False])
def test_consistency_follows_the_pairs_of_the_proposals(detach, free):
    embeddings = torch.randn(1, 5, 8, requires_grad=True)
    pairs, labels = torch.tensor([[3, 0], [1, 4]]), torch.tensor([[2, -1, 0, 2, -1]])
    proposals = Proposals(torch.zeros(1, 5, 2, 2), (8, 8), labels=labels, pairs=pairs)
    term = MaskConsistencyLoss(weight=5.0, detach_target=detach, count_free_slots=free)
    loss = term(step(proposals=proposals, classification=Classification(embeddings, embeddings)))
    rows = embeddings.detach()[0]
    distances = [1 - F.cosine_similarity(rows[a], rows[b], dim=0) for a, b in ([3, 0], [1, 4])]
    expected = 5 * torch.stack(distances if free else distances[:1]).mean()
    torch.testing.assert_close(loss["loss_mask_consistency"].detach(), expected)
    loss["loss_mask_consistency"].backward()
    moved = embeddings.grad[0].abs().sum(-1) > 0
    assert moved.tolist() == [not detach, free, False, True, free and not detach]


def test_strip_sums_of_a_square_map_by_definition():
    features = torch.randn(1, 2, 8, 8)
    rows = []
    for scale in (1, 2, 4):
        window = 8 // scale
        pooled = features.clamp(min=0).unfold(2, window, window).unfold(3, window, window).mean((-2, -1))
        rows += [pooled.sum(3), pooled.sum(2)]
    torch.testing.assert_close(strip_sums(features), torch.cat(rows, -1))


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (11, 3), (1, 2)])
def test_compensation_is_zero_for_equal_maps_and_moves_the_student_only(size):
    student, teacher = (torch.randn(2, 3, *size, requires_grad=True) for _ in range(2))
    assert representation_compensation_loss(student, student) == 0
    representation_compensation_loss(student, teacher).backward()
    assert student.grad.isfinite().all() and student.grad.any() and teacher.grad is None


def test_overlaps_without_normalisation():
    probabilities, masks = torch.rand(1, 4, 3), torch.rand(1, 4, 6, 6)
    target = Targets(torch.tensor([2, 0]), torch.rand(2, 6, 6) > 0.5)
    overlap = soft_iou(target.masks, masks[0], epsilon=1e-7)
    expected = F.smooth_l1_loss(probabilities[0][:, target.labels].T, overlap)
    torch.testing.assert_close(mask_aware_loss(probabilities, masks, [target], normalize=False), expected)


def test_mask_probabilities_may_be_resized_instead_of_logits():
    logits, scores = 8 * torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3)
    target = Targets(torch.tensor([1]), torch.rand(1, 12, 12) > 0.5)
    made = step(
        images=Images(torch.zeros(1, 3, 12, 12), [(12, 12)]),
        proposals=Proposals(logits, (12, 12)),
        classification=Classification(scores),
        targets=[target],
    )
    soft = F.interpolate(logits.sigmoid(), (12, 12), mode="bilinear")
    sharp = F.interpolate(logits, (12, 12), mode="bilinear").sigmoid()
    for first, masks in ((True, soft), (False, sharp)):
        expected = mask_aware_loss(scores.softmax(-1), masks, [target])
        torch.testing.assert_close(MaskAwareLoss(sigmoid_first=first)(made)["loss_mask_aware"], expected)


def test_says_what_is_wrong():
    proposals, scores = Proposals(torch.zeros(1, 2, 2, 2), (8, 8)), Classification(torch.zeros(1, 2, 3))
    with pytest.raises(UserError, match="masks with labels"):
        MaskCrossEntropyLoss()(step(proposals=proposals, classification=scores))
    with pytest.raises(UserError, match="pairs of predicted and true masks"):
        MaskConsistencyLoss()(step(proposals=proposals, classification=scores))
    with pytest.raises(UserError, match="RepresentationCompensationLoss needs .*MaskClassifier does not: use MAFTPlus"):
        RepresentationCompensationLoss()(step(proposals=proposals, classifier=MaskClassifier()))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"SCALES": [1, 0]},
            r"SCALES takes a list \(a whole number of at least 1 .* each\).*the list \[1, 0\], because of 0\.",
        ),
        ({"SCALES": []}, r"SCALES is \[\], but it must be a list .* with a length of at least 1\."),
        ({"WEIGHT": -0.1}, "WEIGHT is -0.1, but it must be a number of at least 0"),
    ],
)
def test_options_are_checked(options, sentence):
    with pytest.raises(UserError, match=sentence):
        LOSSES.build("RepresentationCompensationLoss", options)
    assert LOSSES.build("RepresentationCompensationLoss", {"SCALES": [1, 3]}).scales == (1, 3)
