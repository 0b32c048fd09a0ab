"""Towers with feature maps: the pyramid a proposer reads, and means of maps."""

from copy import deepcopy

import pytest
import torch

PYRAMIDS = {
    "convnext_base": 32,
    "MobileCLIP-S1": 32,
    "MobileCLIP2-S3": 64,
    "swin_base_patch4_window7_224": 32,
    "ViTamin-L": 16,
    "RN50": 32,
}
MEANS = ["convnext_base", "MobileCLIP-S1", "MobileCLIP2-S3", "swin_base_patch4_window7_224", "ViTamin-L"]


@torch.no_grad()
@pytest.mark.parametrize("name", PYRAMIDS)
def test_maps_have_the_channels_and_strides_they_promise(shrunk_clip, name):
    tower = shrunk_clip(name).tower
    features = tower.dense_features(torch.randn(1, 3, 128, 192))
    dense = features.pop("dense")
    assert {name: value.shape[1] for name, value in features.items()} == tower.pyramid_channels()
    for level, stride in zip(("res2", "res3", "res4", "res5"), (4, 8, 16, 32), strict=True):
        assert features[level].shape[-2:] == (128 // stride, 192 // stride)
    assert dense.shape[1:] == (tower.dense_channels, 128 // PYRAMIDS[name], 192 // PYRAMIDS[name])
    assert tower.stride == PYRAMIDS[name]


@torch.no_grad()
@pytest.mark.parametrize("name", MEANS)
def test_a_full_mask_over_dense_features_is_the_image(shrunk_clip, name):
    tower, pixels = shrunk_clip(name).tower, torch.randn(1, 3, 128, 192)
    dense = tower.dense_features(pixels)["dense"]
    inside = torch.ones(1, 1, *dense.shape[-2:], dtype=torch.bool)
    torch.testing.assert_close(tower.pool_masks(dense, inside)[:, 0], tower.encode(pixels), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", PYRAMIDS)
def test_every_cell_is_projected_as_a_pooled_vector_would_be(shrunk_clip, name):
    tower = shrunk_clip(name).tower
    dense = torch.randn(2, tower.dense_channels, 3, 4)
    projected = tower.project_dense(dense)
    torch.testing.assert_close(projected[1, :, 2, 1], tower.project_pooled(dense[1, :, 2, 1]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_memory_order_rows_mix_positions_and_channels(shrunk_clip):
    tower = shrunk_clip("convnext_base").tower
    dense = torch.randn(1, tower.dense_channels, 2, 3)
    expected = tower.project_pooled(dense.flatten().view(6, -1)).T.reshape(1, -1, 2, 3)
    torch.testing.assert_close(tower.project_dense(dense, rows_in_memory_order=True), expected)


@torch.no_grad()
def test_swin_sees_other_sizes_as_timm_does(shrunk_clip):
    tower = shrunk_clip("swin_base_patch4_window7_224").tower
    pixels = torch.randn(1, 3, 128, 192)
    visual = deepcopy(tower.visual)
    visual.trunk.patch_embed.strict_img_size = False
    torch.testing.assert_close(tower.encode(pixels), visual(pixels), rtol=1e-4, atol=1e-5)
