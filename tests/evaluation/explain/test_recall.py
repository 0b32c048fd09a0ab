"""Mask recall: true masks of classes, of parts that hang together, and of segments, against direct counting."""

import pytest
import torch
from scipy import ndimage

from maft.evaluation.explain.recall import RecallStatistics, Regions, class_regions, components


def test_parts_that_hang_together_are_those_that_scipy_finds_class_by_class():
    torch.manual_seed(0)
    truth = torch.nn.functional.interpolate(torch.randn(1, 4, 6, 7), (23, 31))[0].argmax(0) - 1
    found = components(truth)
    assert ((found.numbers >= 0) == (truth >= 0)).all()
    assert torch.equal(found.classes[found.numbers.clamp(min=0)][truth >= 0], truth[truth >= 0])
    assert len(found.classes) == sum(ndimage.label((truth == label).numpy())[1] for label in range(3))
    # No part is two, and no two are one.
    for number in range(len(found.classes)):
        assert ndimage.label((found.numbers == number).numpy())[1] == 1


@pytest.mark.parametrize("value", [-1, 0])
def test_an_image_of_one_value_has_one_part_or_none(value):
    found = components(torch.full((4, 5), value))
    assert found.classes.tolist() == ([] if value < 0 else [0])
    assert found.numbers.unique().tolist() == [value]


def test_a_true_mask_is_found_from_its_best_iou_up_to():
    truth = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1, -1, -1]])
    statistics = RecallStatistics("class region", ("a", "b", "c"))
    # The first proposal shows five pixels of a and one of b, the second both of b and all that does not count.
    overlap = torch.tensor([[5, 1, 0], [0, 2, 0]])
    statistics.add(class_regions(truth, 3), overlap)
    recall = statistics.recall()
    assert recall.count == 2 and recall.counts == {"a": 1, "b": 1}
    assert recall.thresholds[0] == 0.5 and recall.thresholds[-1] == 0.95 and len(recall.thresholds) == 10
    # 5 / (6 + 6 - 5) = 0.714 and 1.
    assert recall.by_class["a"] == (1, 1, 1, 1, 1, 0, 0, 0, 0, 0) and recall.by_class["b"] == (1,) * 10
    assert recall.recall[4] == 1 and recall.recall[5] == 0.5


def test_segments_of_one_class_count_one_by_one():
    numbers = torch.tensor([[0, 0, 1, 1, -1]])
    statistics = RecallStatistics("panoptic segment", ("a",))
    statistics.add(Regions("panoptic segment", numbers, torch.tensor([0, 0])), torch.tensor([[2, 0], [1, 1]]))
    assert statistics.recall().count == 2 and statistics.recall().recall[0] == 0.5
