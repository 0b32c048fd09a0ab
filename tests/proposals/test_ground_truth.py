import pytest
import torch

from maft.errors import UserError
from maft.proposals.ground_truth import GroundTruth
from maft.registry import PROPOSERS
from maft.structures import Images, Targets

IMAGES = Images(torch.zeros(2, 3, 32, 32), [(32, 32), (20, 32)])


def targets(counts):
    made = []
    for count in counts:
        masks = torch.zeros(count, 32, 32, dtype=torch.bool)
        for index in range(count):
            masks[index, index : index + 3] = True
        made.append(Targets(torch.arange(count) + 10, masks))
    return made


def test_every_mask_with_its_label_and_padding_slots_marked():
    proposals = GroundTruth().eval()(IMAGES, None, None, targets([3, 1]))
    assert not proposals.are_logits and proposals.masks.shape == (2, 3, 32, 32)
    assert proposals.valid.tolist() == [[True] * 3, [True, False, False]]
    assert proposals.labels.tolist() == [[10, 11, 12], [10, -1, -1]]
    assert torch.equal(proposals.masks[0], targets([3])[0].masks.float())


def test_a_fixed_number_of_slots_in_training_only():
    proposer = PROPOSERS.build("GroundTruth", {"NUM_MASKS": 2})
    assert proposer.train()(IMAGES, None, None, targets([3, 1])).masks.shape[1] == 2
    assert proposer.eval()(IMAGES, None, None, targets([3, 1])).masks.shape[1] == 3


def test_images_without_masks_give_one_invalid_slot():
    proposals = GroundTruth()(IMAGES, None, None, targets([0, 0]))
    assert proposals.masks.shape == (2, 1, 32, 32) and not proposals.valid.any()


def test_says_that_annotations_are_missing():
    with pytest.raises(UserError, match="needs annotated images"):
        GroundTruth()(IMAGES, None, None, None)
    with pytest.raises(UserError, match=r"NUM_MASKS is -1, but it must be a whole number of at least 0\."):
        PROPOSERS.build("GroundTruth", {"NUM_MASKS": -1})
