"""Semantic, panoptic and instance results against direct definitions."""

import pytest
import torch

from maft import inference
from maft.errors import UserError
from maft.inference import (
    ResizedMasks,
    has_background,
    image_result,
    instance_inference,
    labels_of_scores,
    panoptic_inference,
    semantic_result,
    tempered_confidence,
)
from maft.layers import score_maps
from maft.layers.score_maps import Tile, View
from maft.structures import RowLogits, Vocabulary


def _tile(probabilities: torch.Tensor, masks: torch.Tensor, are_logits: bool = False) -> Tile:
    height, width = masks.shape[1:]
    return Tile(probabilities, masks, (height, width), 0, 0, height, width, are_logits)


def _semantic(probabilities: torch.Tensor, masks: torch.Tensor, size: tuple[int, int], penalty=None, before=False):
    view = View((masks.shape[1], masks.shape[2]), [(False, [_tile(probabilities, masks)])], before)
    return semantic_result([view], size, penalty, labels_only=False)


def _resized(masks: torch.Tensor, size: tuple[int, int] | None = None, are_logits: bool = False) -> ResizedMasks:
    return ResizedMasks(_tile(torch.empty(0), masks, are_logits), size or (masks.shape[1], masks.shape[2]))


def _interpolated(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return torch.nn.functional.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


@pytest.fixture
def thin_strips(monkeypatch):
    """Strips of four rows, whatever the memory."""
    monkeypatch.setattr(score_maps, "_STRIP_BYTES", 0)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("size", [(5, 6), (21, 13), (3, 4)])
def test_semantic_scores_are_the_weighted_sum_of_masks(thin_strips, size, before):
    probabilities, masks, penalty = torch.rand(7, 11), torch.rand(7, 5, 6), torch.rand(11)
    shown = _interpolated(masks, size) if before else masks
    scores = _interpolated(sum(probabilities[q, :, None, None] * shown[q] for q in range(7)), size)
    found = _semantic(probabilities, masks, size, penalty, before)
    torch.testing.assert_close(found["sem_seg"], scores - penalty[:, None, None])
    assert torch.equal(found["sem_seg_labels"], found["sem_seg"].argmax(0))
    of_labels = scores.gather(0, found["sem_seg_labels"][None])[0]
    torch.testing.assert_close(found["sem_seg_confidence"], of_labels / scores.sum(0).clamp(min=1))


def test_confidence_is_the_share_of_the_best_class_and_what_is_missing_to_one_is_no_object():
    scores = torch.tensor([[3.0, 0.2, 0.0, 0.5], [1.0, 0.1, 0.0, 0.5]])[..., None]
    labels, confidence = labels_of_scores(scores)
    assert labels[:, 0].tolist() == [0, 0, -1, 0]
    torch.testing.assert_close(confidence[:, 0], torch.tensor([0.75, 0.2, 0.0, 0.5]))
    # A penalty chooses another class, whose own share counts.
    labels, confidence = labels_of_scores(scores, torch.tensor([2.5, 0.0]))
    assert labels[:, 0].tolist() == [1, 1, -1, 1]
    torch.testing.assert_close(confidence[:, 0], torch.tensor([0.25, 0.1, 0.0, 0.5]))


@pytest.mark.parametrize("penalty", [None, torch.tensor([0.5, 0.0, 2.0])])
def test_pixels_outside_all_masks_are_void(penalty):
    masks = torch.zeros(2, 4, 4)
    masks[0, :2], masks[1, 2, 2:] = 1, 0.5
    probabilities = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.2, 0.7]])
    found = _semantic(probabilities, masks, (4, 4), penalty)
    assert torch.equal(found["sem_seg_labels"] == -1, masks.sum(0) == 0)
    nothing = _semantic(torch.zeros(0, 3), torch.zeros(0, 4, 4), (6, 5))
    assert nothing["sem_seg_labels"].eq(-1).all() and not nothing["sem_seg_confidence"].any()


def _square(top: int, left: int, side: int, value: float = 1.0, size: int = 12) -> torch.Tensor:
    mask = torch.zeros(size, size)
    mask[top : top + side, left : left + side] = value
    return mask


def test_panoptic_merges_stuff_keeps_things_apart_and_drops_the_covered():
    masks = torch.stack(
        [
            _square(0, 0, 4),  # thing
            _square(6, 6, 4),  # thing of the same class
            _square(0, 8, 4),  # stuff
            _square(8, 0, 4),  # the same stuff
            _square(0, 0, 4),  # covered by the first: owns nothing
            _square(0, 4, 4),  # void
        ]
    )
    probabilities = torch.tensor(
        [[0.9, 0.0, 0.1], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.7, 0.2], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]]
    )
    things = torch.tensor([True, False])
    segmentation, segments = panoptic_inference(
        probabilities, _resized(masks), things, object_mask_threshold=0.0, overlap_threshold=0.8
    )
    assert [(s["category_id"], s["isthing"]) for s in segments] == [(0, True), (0, True), (1, False)]
    expected = (_square(0, 0, 4) + 2 * _square(6, 6, 4) + 3 * _square(0, 8, 4) + 3 * _square(8, 0, 4)).int()
    assert torch.equal(segmentation, expected)
    # The merged stuff lies half where 0.8 and half where 0.7 won.
    assert [s["score"] for s in segments] == pytest.approx([0.9, 0.8, 0.75])


def test_panoptic_without_any_segment_is_all_void():
    segmentation, segments = panoptic_inference(
        torch.tensor([[0.1, 0.9]]), _resized(torch.rand(1, 4, 4)), torch.tensor([True]),
        object_mask_threshold=0.0, overlap_threshold=0.8,
    )  # fmt: skip
    assert not segmentation.any() and segments == []


def test_instances_have_boxes_and_scores_of_their_masks():
    logits = torch.stack([_square(2, 3, 4, 20.0) - 10, _square(0, 0, 2, 20.0) - 10])
    result = instance_inference(torch.tensor([[0.9, 0.2], [0.1, 0.6]]), _resized(logits, are_logits=True), most=2)
    order = result.scores.argsort(descending=True)
    assert result.pred_classes[order].tolist() == [0, 1]
    assert result.pred_boxes.tensor[order].tolist() == [[3, 2, 7, 6], [0, 0, 2, 2]]
    assert torch.allclose(result.scores[order], torch.tensor([0.9, 0.6]), atol=1e-3)


def test_instances_keep_things_only_when_told():
    result = instance_inference(
        torch.tensor([[0.9, 0.8]]), _resized(torch.ones(1, 4, 4)), most=2, things=torch.tensor([False, True])
    )
    assert result.pred_classes.tolist() == [1]


def test_objects_in_strips_are_those_of_whole_masks(thin_strips):
    draws = torch.Generator().manual_seed(3)
    probabilities = (4 * torch.randn(9, 6, generator=draws)).softmax(-1)
    logits, size = 6 * torch.randn(9, 8, 7, generator=draws), (19, 30)
    soft = _interpolated(logits, size).sigmoid()
    scores, labels = probabilities.max(-1)
    # MaskFormer's rule, written with whole maps, where every class is a thing.
    kept = [q for q in range(9) if labels[q] != 5 and scores[q] > 0.3]
    owner = torch.stack([scores[q] * soft[q] for q in kept]).argmax(0)
    expected, classes = torch.zeros(size, dtype=torch.int32), []
    for place, q in enumerate(kept):
        inside, own = (owner == place) & (soft[q] >= 0.5), owner == place
        if inside.any() and own.sum() >= 0.4 * (soft[q] >= 0.5).sum():
            classes.append(int(labels[q]))
            expected[inside] = len(classes)
    found, segments = panoptic_inference(
        probabilities, _resized(logits, size, True), torch.ones(5, dtype=torch.bool),
        object_mask_threshold=0.3, overlap_threshold=0.4,
    )  # fmt: skip
    assert len(classes) > 1 and [segment["category_id"] for segment in segments] == classes
    assert torch.equal(found, expected)

    result = instance_inference(probabilities[:, :5], _resized(logits, size, True), most=12)
    masks = _interpolated(logits, size) > 0
    sure = torch.stack([soft[q][masks[q]].mean() for q in range(9)])
    assert torch.equal(result.pred_masks, masks[result.proposals])
    best = probabilities[result.proposals, result.pred_classes]
    torch.testing.assert_close(result.scores, best * sure[result.proposals])
    assert best.min() >= probabilities[:, :5].flatten().sort(descending=True).values[11]


def test_only_proposals_that_are_best_for_some_class_are_kept():
    probabilities = torch.tensor([[0.6, 0.1], [0.5, 0.2], [0.1, 0.9]])
    assert torch.equal(inference.keep_best_proposals(probabilities), torch.tensor([[0.6, 0.1], [0.0, 0.0], [0.1, 0.9]]))


def test_a_class_can_have_its_best_proposal_alone_cut_at_a_value():
    probabilities = torch.tensor([[0.6, 0.1], [0.5, 0.2], [0.1, 0.9]])
    masks = torch.stack([_square(0, 0, 4, 0.5), _square(6, 6, 4, 0.9), _square(4, 0, 4, 0.2) + _square(4, 0, 2, 0.7)])
    size = (masks.shape[1], masks.shape[2])
    options = {"semantic": True, "panoptic": False, "instance": False, "resize_before": False, "labels_only": False,
               "seen_penalty": 0.0, "best_masks_above": 0.35}  # fmt: skip
    result = inference.image_result(
        probabilities, masks, size, are_logits=False, classes=2, seen=None, things=None, options=options
    )
    # The second proposal is no class's best; the faint part of the third is cut off, and the rest counts in full.
    first, third = _square(0, 0, 4), _square(4, 0, 2)
    assert torch.allclose(result["sem_seg"], torch.stack([0.6 * first + 0.1 * third, 0.1 * first + 0.9 * third]))
    expected = torch.where(first > 0, 0, torch.where(third > 0, 1, -1))
    assert torch.equal(result["sem_seg_labels"], expected)


SUMMED = {"semantic": True, "panoptic": False, "instance": False, "labels_only": False, "seen_penalty": 0.0,
          "best_masks_above": 0.0}  # fmt: skip


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("are_logits", [False, True])
@pytest.mark.parametrize("size", [(8, 10), (21, 13)])
def test_logits_are_summed_over_soft_masks_and_single_pixels_name_the_rest(thin_strips, size, are_logits, before):
    """TextRegion: SAM's logits are masks from 0 to 1, and a softmax over all texts is taken last."""
    masks = torch.randn(4, 8, 10) * 3 if are_logits else torch.rand(4, 8, 10)
    masks[:, :2], masks[3] = (-1.0 if are_logits else 0.0), 1
    logits, elsewhere, row_class = torch.randn(1, 4, 5) * 2, torch.randn(5, 3, 4), torch.tensor([0, 0, 1, 2, 3])
    # The last mask says nothing, and shows nothing therefore.
    logits[0, 3] = 0
    shown = masks[:3].clamp(0, 3)
    shown = (_interpolated(shown, size) if before else shown).clamp(max=1)
    summed = torch.einsum("qt,qhw->thw", logits[0, :3], shown)
    rest = _interpolated(elsewhere, tuple(shown.shape[1:]))
    summed = _interpolated(torch.where((shown > 0).any(0), summed, rest), size)
    expected = summed.softmax(0)
    expected = torch.cat([expected[:2].amax(0, keepdim=True), expected[2:]])
    result = image_result(
        torch.full((4, 4), 0.25), masks, size, are_logits=are_logits, classes=4, seen=None, things=None,
        options={**SUMMED, "resize_before": before}, rows=RowLogits(logits, row_class, [elsewhere]),
    )  # fmt: skip
    torch.testing.assert_close(result["sem_seg"], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(result["sem_seg_labels"], result["sem_seg"].argmax(0))


def test_summed_logits_of_pixels_that_nothing_names_are_no_class():
    masks = torch.zeros(2, 6, 8)
    masks[0, :, :4] = 1
    rows = RowLogits(torch.tensor([[[-1.0, 2.0, 0.5], [0.0, 0.0, 0.0]]]), torch.arange(3))
    result = image_result(
        torch.zeros(2, 3), masks, (6, 8), are_logits=False, classes=3, seen=None, things=None,
        options={**SUMMED, "resize_before": False}, rows=rows,
    )  # fmt: skip
    assert (result["sem_seg_labels"][:, :4] == 1).all() and (result["sem_seg_labels"][:, 4:] == -1).all()
    assert (result["sem_seg_confidence"][:, 4:] == 0).all()
    sure = torch.tensor([-1.0, 2.0, 0.5]).softmax(0)[1]
    torch.testing.assert_close(result["sem_seg_confidence"][:, :4], sure.expand(6, 4))


@pytest.mark.parametrize(("first", "label"), [("background, wall", 0), ("dog", -1)])
@pytest.mark.parametrize("row_class", [[0, 1, 2], [0, 0, 1]])
def test_pixels_of_which_nothing_is_sure_are_of_the_background(row_class, first, label):
    """TextRegion; pixels that no mask shows are as unsure as can be. Without a background they are of no class."""
    masks = torch.rand(4, 6, 8)
    masks[..., 6:] = 0
    logits, below = torch.randn(1, 4, 3), 0.45
    probabilities = torch.einsum("qt,qhw->thw", logits[0], masks).softmax(0)
    if row_class[1] == 0:
        probabilities = torch.stack([probabilities[:2].amax(0), probabilities[2]])
    best, expected = probabilities.max(0)
    expected[best < below] = label
    options = {**SUMMED, "resize_before": False, "background_below": below}
    result = image_result(
        torch.zeros(4, 2), masks, (6, 8), are_logits=False, classes=len(probabilities), seen=None, things=None,
        options=options, rows=RowLogits(logits, torch.tensor(row_class)),
        background=has_background(Vocabulary((first, "cat"))),
    )  # fmt: skip
    assert 0 < (best < below)[:, :6].sum() < 36
    assert torch.equal(result["sem_seg_labels"], expected)
    sure = probabilities.gather(0, expected.clamp(min=0)[None])[0] / probabilities.sum(0).clamp(min=1)
    sure[expected < 0] = 0
    torch.testing.assert_close(result["sem_seg_confidence"], sure)


def test_a_sum_over_all_masks_and_the_best_mask_of_each_class_exclude_each_other():
    rows, options = RowLogits(torch.ones(1, 2, 3), torch.arange(3)), {**SUMMED, "resize_before": False}
    with pytest.raises(UserError, match="set SUM_LOGITS False or BEST_MASKS_ABOVE 0"):
        image_result(
            torch.ones(2, 3), torch.ones(2, 6, 8), (6, 8), are_logits=False, classes=3, seen=None, things=None,
            options={**options, "best_masks_above": 0.35}, rows=rows,
        )  # fmt: skip


def test_a_temperature_of_one_is_the_confidence_of_the_label_and_others_are_the_softmax_of_log_scores():
    scores = torch.rand(5, 6, 7) ** 4
    scores[:, 0] *= 0.1
    labels, confidence = labels_of_scores(scores)
    torch.testing.assert_close(tempered_confidence(scores, labels, 1.0), confidence)
    found = tempered_confidence(scores, labels, 0.3)
    shares = (scores.log() / 0.3).softmax(0).gather(0, labels[None])[0]
    torch.testing.assert_close(found, shares * scores.sum(0).clamp(max=1))


@pytest.mark.parametrize("temperature", [0.02, 1.0, 50.0])
def test_confidence_under_any_temperature_lies_between_0_and_1(temperature):
    scores = torch.tensor([[0.0, 1e-30, 5.0, 0.2], [0.0, 0.0, 4.9, 0.1]])[..., None]
    # A penalty may have chosen another class than the best one.
    found = tempered_confidence(scores, torch.tensor([-1, 0, 1, 1])[:, None], temperature)
    assert found.isfinite().all() and (found >= 0).all() and (found <= 1).all()
    assert found[0] == 0


def test_a_temperature_adds_a_confidence_and_changes_nothing_else(thin_strips):
    probabilities, masks = torch.rand(7, 4), torch.rand(7, 20, 6)
    view = View((20, 6), [(False, [_tile(probabilities, masks)])], False)
    plain = semantic_result([view], (20, 6), None, labels_only=True)
    found = semantic_result([view], (20, 6), None, labels_only=True, temperature=0.5)
    tempered = found.pop("sem_seg_tempered")
    assert found.keys() == plain.keys() and all(torch.equal(found[name], plain[name]) for name in plain)
    scores = semantic_result([view], (20, 6), None, labels_only=False)["sem_seg"]
    assert torch.equal(tempered, tempered_confidence(scores, found["sem_seg_labels"], 0.5))
