"""The filters of the automatic mask generator on masks made by hand."""

import numpy as np
import torch

from maft.proposals.sam_filters import drop_islands, fill_holes, stability, without_small_regions


def test_stability_is_the_share_that_survives_a_stricter_cut():
    logits = torch.full((2, 4, 4), -5.0)
    logits[0, :2] = 5.0
    logits[1, 0] = 5.0
    logits[1, 1] = 0.5
    assert stability(logits, 1.0).tolist() == [1.0, 0.5]


def picture(rows):
    return np.array([[character == "#" for character in row] for row in rows])


def test_holes_are_filled_and_islands_dropped_below_the_area():
    ring = picture(["######", "#.##.#", "####.#", "######"])
    # A hole of one pixel goes, one of two stays.
    assert (fill_holes(ring, 2) == picture(["######", "####.#", "####.#", "######"])).all()
    spots = picture(["##..#.", "##....", "....##", "#....."])
    assert (drop_islands(spots, 2) == picture(["##....", "##....", "....##", "......"])).all()
    # Where every island is too small the largest stays; diagonal neighbours are connected.
    assert (drop_islands(spots, 9) == picture(["##....", "##....", "......", "......"])).all()
    diagonal = picture(["#.....", ".#....", "....#.", "......"])
    assert (drop_islands(diagonal, 9) == picture(["#.....", ".#....", "......", "......"])).all()


def test_a_mask_that_cleaning_made_a_duplicate_is_dropped():
    clean = picture(["####..", "####..", "####..", "......"])
    holey = picture(["####..", "#.##..", "####..", "......"])
    other = picture(["......", "......", "....##", "....##"])
    result = without_small_regions(torch.from_numpy(np.stack([holey, clean, other])), 2, 0.7)
    assert sorted(mask.sum().item() for mask in result) == [4, 12]
