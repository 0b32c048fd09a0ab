"""What CLIP sees of an image for SAN, and the bias on its grid."""

import math

import pytest
import torch

from maft.clip.class_rows import bias_on_grid, scaled_pixels
from maft.conformance import tiny_clip


def test_pixels_are_sampled_in_steps_of_one_over_the_scale_exactly():
    # 33 pixels at 0.7 are 23, whose own quotient is another step.
    ramp = torch.arange(33.0).expand(1, 3, 33, 33)
    small = scaled_pixels(ramp, 0.7, tiny_clip("tiny_vit").tower)
    assert small.shape == (1, 3, 23, 23)
    expected = torch.tensor([max((index + 0.5) / 0.7 - 0.5, 0) for index in range(23)])
    torch.testing.assert_close(small[0, 0, 5], expected)
    assert scaled_pixels(ramp, 1.0, tiny_clip("tiny_vit").tower) is ramp


@pytest.mark.parametrize("grid", [(4, 5), (3, 4), (5, 7), (8, 10), (9, 11)])
def test_the_bias_of_a_patch_is_the_largest_of_its_window(grid):
    bias = torch.randn(2, 3, 4, 8, 10)
    found = bias_on_grid(bias, grid).unflatten(3, grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            rows = slice(row * 8 // grid[0], math.ceil((row + 1) * 8 / grid[0]))
            columns = slice(column * 10 // grid[1], math.ceil((column + 1) * 10 / grid[1]))
            assert torch.equal(found[..., row, column], bias[..., rows, columns].amax((-2, -1)))
