"""Which masks of a ranking are shown."""

import numpy as np
import torch

from maft.exports.coco import encoded_masks
from maft.index.ranking import any_of, best_first, different_objects


def test_the_score_is_the_sum_over_the_words_and_the_likeliest_names_the_mask():
    probabilities = torch.tensor([[0.3, 0.1, 0.2, 0.4], [0.2, 0.25, 0.25, 0.3], [0.1, 0.2, 0.6, 0.1]])
    scores, word = any_of(probabilities, torch.tensor([0, 1]), torch.tensor([2]))
    assert scores.tolist() == torch.tensor([0.4, 0.45, -torch.inf]).tolist()
    assert word.tolist() == [0, 1, 1]


def test_without_words_against_nothing_is_left_out():
    scores, _ = any_of(torch.tensor([[0.0, 0.9], [0.2, 0.8]]), torch.tensor([0]), torch.tensor([], dtype=torch.int64))
    assert scores.tolist() == torch.tensor([0.0, 0.2]).tolist()


def test_equal_scores_come_in_the_order_of_the_masks_and_what_is_out_does_not_come():
    assert list(best_first(torch.tensor([0.5, -torch.inf, 0.7, 0.5]))) == [2, 0, 3]


def test_an_object_is_shown_once():
    masks = np.zeros((6, 20, 20), bool)
    masks[0, 2:12, 2:12] = True
    masks[1, 2:12, 3:12] = True  # nearly the first
    masks[2, 2:6, 2:6] = True  # a part of it, of the same word
    masks[3, 2:6, 2:6] = True  # a part of it, of another word
    masks[4, 14:18, 14:18] = True  # elsewhere
    masks[5, 2:12, 2:12] = True  # the same place in another image
    codes = encoded_masks(masks)
    words, images = [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]
    shown = different_objects(range(6), lambda mask: (images[mask], words[mask]), lambda mask: codes[mask])
    assert list(shown) == [0, 3, 4, 5]


def test_masks_are_read_as_far_as_they_are_asked_for():
    code = encoded_masks(np.ones((1, 4, 4), bool))[0]
    read = []
    shown = different_objects(range(1000), lambda mask: (mask, 0), lambda mask: read.append(mask) or code)
    assert [next(shown) for _ in range(3)] == [0, 1, 2]
    assert len(read) == 3
