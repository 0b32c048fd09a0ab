"""One proposal for each segment, of a model whose proposals show a region several times."""

import torch

from maft.predictor.merging import merged
from maft.structures import Proposals

# grass, cat
THINGS = torch.tensor([False, True])


def _masks(*columns: range) -> torch.Tensor:
    masks = torch.full((len(columns), 4, 10), 0.01)
    for mask, covered in zip(masks, columns):
        mask[:, covered.start : covered.stop] = 0.99
    return masks


def test_of_a_thing_that_is_proposed_twice_the_better_stays_and_another_one_does_too():
    masks = _masks(range(0, 4), range(0, 5), range(6, 9))
    probabilities = torch.tensor([[0.0, 0.7, 0.3], [0.0, 0.9, 0.1], [0.1, 0.6, 0.3]])
    segments, objects = merged(Proposals(masks[None], (16, 40), are_logits=False), probabilities, THINGS)
    assert segments.valid.tolist() == objects.valid.tolist() == [[False, True, True]]
    assert torch.equal(segments.masks[0], masks)


def test_a_class_that_is_no_thing_is_one_mask_of_all_its_proposals():
    masks = _masks(range(0, 6), range(4, 10), range(1, 3), range(0, 10))
    probabilities = torch.tensor([[0.5, 0.1, 0.4], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    logits = Proposals(masks.logit()[None], (16, 40))
    segments, objects = merged(logits, probabilities, THINGS)
    assert segments.valid.tolist() == [[False, True, True, True]] and objects.valid.tolist() == [
        [False, False, True, False]
    ]
    expected = torch.maximum(masks[1], masks[0] * 0.5 / 0.8)
    torch.testing.assert_close(segments.masks[0, 1], expected)
    torch.testing.assert_close(segments.masks[0, [2, 3]], masks[[2, 3]])


def test_padding_slots_stay_out_and_a_vocabulary_without_things_has_no_objects():
    proposals = Proposals(
        _masks(range(0, 5), range(5, 9))[None], (16, 40), are_logits=False, valid=torch.tensor([[True, False]])
    )
    segments, objects = merged(proposals, torch.tensor([[0.6, 0.4], [0.0, 0.0]]), torch.zeros(2, dtype=torch.bool))
    assert segments.valid.tolist() == [[True, False]] and not objects.valid.any()
