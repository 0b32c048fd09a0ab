"""Masks cut out of their images."""

import numpy as np
import pytest

from maft.exports.cut_outs import cut_out


@pytest.mark.parametrize("box", [(10, 12, 20, 30), (0, 0, 1, 1), (0, 0, 60, 90), (59, 80, 60, 90)])
def test_a_mask_is_shown_brighter_than_what_is_around_it_in_a_square(box):
    top, left, bottom, right = box
    image, mask = np.full((60, 90, 3), 200, np.uint8), np.zeros((60, 90), bool)
    mask[top:bottom, left:right] = True
    picture = cut_out(image, mask, 120)
    assert picture.shape == (120, 120, 3)
    # Inside as it is, around it darkened; white lies beyond the image.
    found = {tuple(colour) for colour in picture.reshape(-1, 3)} - {(255, 220, 0), (255, 255, 255)}
    assert found <= {(200, 200, 200), (80, 80, 80)}
    if (bottom - top) < 60:
        assert (80, 80, 80) in found


def test_a_large_image_is_shrunk():
    image = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)
    mask = np.zeros((900, 1200), bool)
    mask[100:700, 200:1000] = True
    assert cut_out(image, mask).shape == (240, 240, 3)
