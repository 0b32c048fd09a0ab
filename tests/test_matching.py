from itertools import permutations

import pytest
import torch
from matched import matched

from maft.matching import (
    MASK_TERMS,
    HungarianMatcher,
    dice_cost,
    dice_loss,
    ground_truth_proposals,
    ground_truth_slots,
    match_by_iou,
    random_integers,
    sample_points,
    soft_iou,
)
from maft.structures import Targets


def rectangles(*boxes, size=(16, 24)):
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes):
        mask[top:bottom, left:right] = True
    return masks


NONE = Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 16, 24, dtype=torch.bool))
TWO = Targets(torch.tensor([2, 0]), rectangles((0, 0, 8, 8), (4, 10, 16, 24)))


def matcher(**options):
    return HungarianMatcher(
        **{"class_weight": 1.0, "mask_weight": 20.0, "dice_weight": 5.0, "mask_loss": "focal"} | options
    )


@pytest.mark.parametrize("options", [{}, {"mask_loss": "bce", "num_points": 200}])
def test_finds_the_planted_pairs_and_none_where_there_is_no_target(options):
    logits = torch.randn(2, 5, 16, 24)
    logits[1, 3] = TWO.masks[0] * 12.0 - 6
    logits[1, 0] = TWO.masks[1] * 12.0 - 6
    (empty, also_empty), (queries, targets) = matched(matcher(**options), torch.zeros(2, 5, 4), logits, [NONE, TWO])
    assert len(empty) == len(also_empty) == 0
    assert queries.tolist() == [0, 3] and targets.tolist() == [1, 0]


@pytest.mark.parametrize(("loss", "cost"), MASK_TERMS.values(), ids=MASK_TERMS)
def test_costs_are_the_losses_of_every_pair(loss, cost):
    logits, masks = torch.randn(4, 50) * 3, (torch.rand(3, 50) > 0.5).float()
    pairs = [(logits[query], masks[target]) for query in range(4) for target in range(3)]
    expected = torch.stack([loss(*pair).mean() for pair in pairs]).view(4, 3)
    torch.testing.assert_close(cost(logits, masks), expected)
    predicted, wanted = (torch.stack(parts) for parts in zip(*pairs))
    torch.testing.assert_close(dice_cost(logits, masks), dice_loss(predicted, wanted).view(4, 3))


def test_is_the_cheapest_of_all_assignments():
    classes, masks = torch.randn(1, 4, 4), torch.randn(1, 4, 16, 24)
    three = Targets(torch.tensor([1, 2, 0]), torch.rand(3, 16, 24) > 0.5)
    found = matcher()
    cost = found._costs(classes, masks, three, [3], None)[0]
    ((queries, targets),) = matched(found, classes, masks, [three])
    best = min(sum(cost[q, t] for t, q in enumerate(chosen)) for chosen in permutations(range(4), 3))
    torch.testing.assert_close(cost[queries, targets].sum(), best)


def test_class_term_breaks_a_tie_of_masks():
    masks = (TWO.masks[:1].float() * 4 - 2).expand(3, -1, -1)[None]
    classes = torch.zeros(1, 3, 4)
    classes[0, 2, 2] = 3.0
    ((queries, _),) = matched(matcher(), classes, masks, [Targets(TWO.labels[:1], TWO.masks[:1])])
    assert queries.tolist() == [2]


def test_a_prediction_that_overflowed_does_not_stop_the_others():
    masks = torch.randn(1, 3, 16, 24)
    masks[0, 1] = float("nan")
    ((queries, targets),) = matched(matcher(), torch.zeros(1, 3, 4), masks, [TWO])
    assert queries.tolist() == [0, 2] and sorted(targets.tolist()) == [0, 1]


def test_more_targets_than_proposals():
    five = Targets(torch.arange(5) % 3, torch.rand(5, 16, 24) > 0.5)
    ((queries, targets),) = matched(matcher(), torch.zeros(1, 2, 4), torch.randn(1, 2, 16, 24), [five])
    assert queries.tolist() == [0, 1] and len(set(targets.tolist())) == 2


def test_points_at_pixel_centres_are_the_pixels():
    maps = torch.randn(1, 2, 3, 4)
    points = torch.tensor([[[0.125, 1 / 6], [0.875, 5 / 6]]])
    expected = torch.stack([maps[0, :, 0, 0], maps[0, :, 2, 3]], dim=-1)
    torch.testing.assert_close(sample_points(maps, points)[0], expected)


def test_ground_truth_slots_drop_empty_masks_and_draw_a_subset_when_full():
    with_empty = Targets(torch.tensor([4, 5, 6]), rectangles((0, 0, 2, 2), (3, 3, 3, 3), (5, 5, 9, 9)))
    masks, labels = ground_truth_slots([with_empty, NONE], 4)
    assert labels.tolist() == [[4, 6, -1, -1], [-1] * 4]
    assert torch.equal(masks[0, :2], with_empty.masks[[0, 2]]) and not masks[0, 2:].any() and not masks[1].any()
    drawn = {tuple(ground_truth_slots([with_empty], 1)[1][0].tolist()) for _ in range(20)}
    assert drawn == {(4,), (6,)}


def test_iou_matching_pairs_only_what_overlaps_and_fills_the_rest():
    logits = torch.full((2, 3, 16, 24), -4.0)
    logits[0, 1][TWO.masks[1]] = 4.0
    predicted, wanted, labels = match_by_iou(logits, [TWO, NONE], slots=3)
    assert labels.tolist() == [[0, -1, -1], [-1] * 3]
    assert torch.equal(predicted[0, 0], logits[0, 1]) and torch.equal(wanted[0, 0], TWO.masks[1].float())
    assert not predicted[:, 1:].any() and not wanted[:, 1:].any()


def test_iou_matching_draws_among_all_good_predictions_and_thins_at_random():
    logits = (TWO.masks.float() * 8 - 4)[[0, 1, 0, 1]][None]
    logits = logits + torch.arange(4.0)[:, None, None] / 10
    seen, labels_seen = set(), set()
    for _ in range(40):
        predicted, _, labels = match_by_iou(logits, [TWO], slots=1)
        seen |= {q for q in range(4) if torch.equal(predicted[0, 0], logits[0, q])}
        labels_seen.add(int(labels[0, 0]))
    assert seen == {0, 1, 2, 3} and labels_seen == {0, 2}


def test_iou_of_masks():
    a, b = rectangles((0, 0, 4, 4), (0, 0, 4, 8)), rectangles((0, 0, 4, 4), (8, 8, 9, 9))
    torch.testing.assert_close(soft_iou(a, b, epsilon=1e-6), torch.tensor([[1.0, 0.0], [0.5, 0.0]]))


def test_integers_cover_their_range_and_an_empty_range_gives_zero():
    below = torch.tensor([0, 1, 3])
    drawn = torch.stack([random_integers(below) for _ in range(100)])
    assert drawn.amax(0).tolist() == [0, 0, 2] and drawn.amin(0).tolist() == [0, 0, 0]


def test_all_true_masks_become_proposals_also_empty_ones():
    masks = torch.zeros(3, 4, 6, dtype=torch.bool)
    masks[0, :2] = masks[2, 3:] = True
    targets = [Targets(torch.tensor([4, 1, 4]), masks), Targets(torch.tensor([2]), masks[:1])]
    found = ground_truth_proposals(targets)
    assert found.labels.tolist() == [[4, 1, 4], [2, -1, -1]] and found.valid.tolist() == [
        [True] * 3,
        [True, False, False],
    ]
    assert torch.equal(found.masks[0], masks.float()) and not found.masks[1, 1:].any() and not found.are_logits
    none = ground_truth_proposals([Targets(torch.zeros(0, dtype=torch.long), masks[:0])])
    assert none.masks.shape == (1, 1, 4, 6) and not none.valid.any()
