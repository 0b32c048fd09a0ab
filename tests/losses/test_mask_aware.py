"""The mask-aware loss against its formula, and the batches that broke the official code."""

import pytest
import torch

from maft.losses.mask_aware import (
    MaskAwareLoss,
    mask_aware_loss,
    mask_aware_loss_by_definition,
    min_max_normalized,
)
from maft.matching import soft_iou
from maft.structures import Targets


def targets_of(*labels):
    return [Targets(torch.tensor(row, dtype=torch.long), torch.rand(len(row), 8, 10) > 0.5) for row in labels]


def test_pooled_value_equals_the_definition():
    probabilities, masks = torch.randn(3, 6, 4).softmax(-1), torch.rand(3, 6, 8, 10)
    targets = targets_of([0, 3, 1], [], [2])
    expected = mask_aware_loss_by_definition(probabilities, masks, targets)
    torch.testing.assert_close(mask_aware_loss(probabilities, masks, targets), expected)


@pytest.mark.parametrize("labels", [([],), ([], []), ([1],), ([0, 2], [])])
def test_any_number_of_labels_gives_a_finite_loss_with_a_gradient_path(labels):
    logits = torch.randn(len(labels), 5, 3, requires_grad=True)
    loss = mask_aware_loss(logits.softmax(-1), torch.rand(len(labels), 5, 8, 10), targets_of(*labels))
    loss.backward()
    assert loss.isfinite() and logits.grad is not None
    assert (loss == 0) == (not any(labels))


@pytest.mark.parametrize("number", [0, 1])
def test_none_or_one_proposal_is_fine(number):
    logits = torch.randn(1, number, 3, requires_grad=True)
    loss = mask_aware_loss(logits.softmax(-1), torch.rand(1, number, 8, 10), targets_of([1, 2]))
    loss.backward()
    assert loss.isfinite()


def test_padding_proposals_change_nothing():
    probabilities, masks, targets = torch.rand(2, 5, 3), torch.rand(2, 5, 8, 10), targets_of([0, 1], [2])
    valid = torch.tensor([[True] * 3 + [False] * 2] * 2)
    expected = mask_aware_loss(probabilities[:, :3], masks[:, :3], targets)
    torch.testing.assert_close(mask_aware_loss(probabilities, masks, targets, valid), expected)
    nothing = mask_aware_loss(probabilities, masks, targets, torch.zeros_like(valid))
    assert nothing == 0


def test_soft_iou_of_binary_masks_is_iou_and_extremes_are_zero_and_one():
    masks = torch.zeros(3, 4, 4)
    masks[0, :2], masks[1, :, :2] = 1, 1
    overlap = soft_iou(masks[:1].bool(), masks, epsilon=1e-7)
    torch.testing.assert_close(overlap, torch.tensor([[1.0, 4 / 12, 0.0]]))
    torch.testing.assert_close(min_max_normalized(overlap * 0.3 + 0.1), overlap)


def test_overlaps_are_summed_in_float32_under_autocast():
    masks = torch.full((1, 2, 300, 300), 0.9)
    masks[0, 1, 100:] = 0.1
    target = [Targets(torch.tensor([0]), torch.ones(1, 300, 300, dtype=torch.bool))]
    probabilities = torch.tensor([[[0.7, 0.3], [0.2, 0.8]]])
    expected = mask_aware_loss(probabilities, masks, target)
    with torch.autocast("cpu", dtype=torch.float16):
        torch.testing.assert_close(mask_aware_loss(probabilities, masks, target), expected)


def test_weight_is_keyword_only():
    assert MaskAwareLoss(weight=0.5).weight == 0.5
    with pytest.raises(TypeError):
        MaskAwareLoss(0.5)
