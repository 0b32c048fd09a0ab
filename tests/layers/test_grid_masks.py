import pytest
import torch

from maft.layers.grid_masks import grid_probabilities, grid_probabilities_by_definition
from maft.structures import Proposals


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("are_logits", [False, True])
@pytest.mark.parametrize("crop", [None, (50, 90)])
@pytest.mark.parametrize("grid", [(4, 7), (30, 30), (1, 96)])
def test_equals_two_full_resizes(grid, crop, are_logits, align_corners):
    masks = torch.randn(2, 3, 16, 24) * 4 if are_logits else torch.rand(2, 3, 16, 24)
    proposals = Proposals(masks, (64, 96), are_logits=are_logits, align_corners=align_corners)
    expected = grid_probabilities_by_definition(proposals, grid, crop)
    torch.testing.assert_close(grid_probabilities(proposals, grid, crop), expected, rtol=1e-4, atol=1e-5)


def test_masks_of_the_padded_size_and_no_masks_at_all_are_fine():
    binary = Proposals((torch.rand(1, 2, 64, 96) > 0.5).float(), (64, 96), are_logits=False)
    expected = grid_probabilities_by_definition(binary, (5, 5))
    torch.testing.assert_close(grid_probabilities(binary, (5, 5)), expected)
    assert grid_probabilities(Proposals(torch.zeros(1, 0, 16, 24), (64, 96)), (5, 5)).shape == (1, 0, 5, 5)


def test_a_cell_is_above_zero_where_torch_has_it_so():
    """At 52 pixels on 20 cells some lie on a pixel exactly, but for rounding."""
    binary = Proposals(torch.eye(52)[None, :, :, None].expand(1, 52, 52, 42), (52, 42), are_logits=False)
    expected = grid_probabilities_by_definition(binary, (20, 10))
    assert torch.equal(grid_probabilities(binary, (20, 10)) > 0, expected > 0)
