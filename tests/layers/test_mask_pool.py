"""Means under masks."""

import torch

from maft.layers.mask_pool import mask_pool


def test_mean_under_each_mask_one_by_one():
    features, inside = torch.randn(2, 5, 4, 6), torch.rand(2, 3, 4, 6) > 0.5
    inside[1, 2] = False
    pooled = mask_pool(features, inside)
    for image in range(2):
        for mask in range(3):
            chosen = features[image][:, inside[image, mask]]
            expected = chosen.mean(1) if chosen.numel() else torch.zeros(5)
            torch.testing.assert_close(pooled[image, mask], expected)
