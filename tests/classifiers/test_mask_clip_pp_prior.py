"""MaskCLIP++'s mask prior, against its formulas."""

import pytest
import torch

from maft.classifiers.mask_clip_pp_prior import (
    class_token_embeddings,
    mean_under_masks,
    prior_bias,
    require_mask_prior,
    scale_shape,
)
from maft.clip import load_clip
from maft.errors import UserError


def test_cells_above_half_the_maximum_get_the_scaled_mask_and_others_are_hidden():
    masks = torch.tensor([[[[0.1, 0.2], [0.05, 0.11]], [[0.0, 0.0], [0.0, 0.0]]]])
    scale = torch.tensor([0.0, 2.0])
    found = prior_bias(masks, scale, None)
    assert found.shape == (1, 2, 2, 4)
    expected = torch.tensor([-100.0, 0.2, -100.0, 0.11])
    torch.testing.assert_close(found[0, 0, 0], expected)
    torch.testing.assert_close(found[0, 1, 0], torch.where(expected < 0, expected, expected * scale[1].exp()))
    assert (found[0, :, 1] == -100).all(), "an empty mask hides all cells alike"
    assert (prior_bias(masks, scale, 0.15)[0, 0, 0] == -100).tolist() == [True, False, True, True]


@torch.no_grad()
def test_mask_tokens_equal_one_sequence_under_one_mask():
    torch.manual_seed(0)
    clip = load_clip("tiny_vit")
    tower = clip.tower
    pixels = torch.randn(2, 3, 4 * tower.patch_size[0], 6 * tower.patch_size[1])
    masks, blocks = torch.rand(2, 3, 4, 6), 2
    scale = torch.randn(scale_shape(tower, blocks))
    found = class_token_embeddings(tower, pixels, masks, scale, None)
    start = len(tower.blocks) - blocks
    tokens, grid = tower.tokens(pixels, start, align_corners=True)
    # The first row of the scale is the last block's.
    bias = [prior_bias(masks, scale[1], None), prior_bias(masks, scale[0], None)]
    rows = tower.class_rows_by_definition(tokens, grid, bias, start, sees_itself=False, keeps_class_token=True)
    torch.testing.assert_close(found, tower.project(rows), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_official_batches_change_all_but_the_first_image():
    torch.manual_seed(0)
    tower = load_clip("tiny_vit").tower
    pixels = torch.randn(2, 3, 4 * tower.patch_size[0], 4 * tower.patch_size[1])
    masks, scale = torch.rand(2, 3, 4, 4), torch.zeros(scale_shape(tower, 2))
    plain = class_token_embeddings(tower, pixels, masks, scale, None)
    official = class_token_embeddings(tower, pixels, masks, scale, None, numbers=[3, 3])
    torch.testing.assert_close(official[0], plain[0])
    assert (official[1] - plain[1]).abs().max() > 1e-3


@torch.no_grad()
def test_a_convnext_takes_the_soft_mean_and_projects_it():
    torch.manual_seed(0)
    tower = load_clip("tiny_convnext").tower
    features, masks = torch.randn(1, tower.dense_channels, 3, 4), torch.rand(1, 2, 3, 4)
    masks[0, 1] = 0
    pooled = (features[:, None] * masks[:, :, None]).sum((-2, -1)) / (masks.sum((-2, -1))[..., None] + 1e-6)
    torch.testing.assert_close(mean_under_masks(tower, features, masks), tower.project_pooled(pooled))
    assert not pooled[0, 1].any()


def test_other_towers_are_refused_with_the_ones_to_choose():
    clip = load_clip("tiny_siglip")
    with pytest.raises(UserError, match="does not work with the image tower of tiny_siglip .*EVA-02"):
        require_mask_prior(clip.tower, clip.name)
