"""CLIP's ResNets."""

import torch


@torch.no_grad()
def test_masked_attention_pool_sees_only_its_mask(shrunk_clip):
    tower = shrunk_clip("RN50").tower
    dense = torch.randn(1, tower.dense_channels, 2, 3)
    visible = torch.zeros(1, 3, 2, 3, dtype=torch.bool)
    visible[0, 0, :, 0] = visible[0, 1] = True
    pooled = tower.pool_masks(dense, visible)
    # A mask without any position sees the whole image instead of dividing by zero.
    torch.testing.assert_close(pooled[:, 2], pooled[:, 1])
    changed = dense.clone()
    # The query is the mean of the image, so the hidden pixels may only trade places.
    changed[..., 1:] = dense[..., 1:].flip(-1)
    again = tower.pool_masks(changed, visible)
    torch.testing.assert_close(again[:, 0], pooled[:, 0], rtol=1e-4, atol=1e-5)
    assert (again[:, 1] - pooled[:, 1]).abs().max() > 1e-4


@torch.no_grad()
def test_a_bias_of_zero_and_minus_infinity_is_a_mask(shrunk_clip):
    tower = shrunk_clip("RN50").tower
    pool = tower.visual.attnpool
    side = int((pool.positional_embedding.shape[0] - 1) ** 0.5)
    dense, visible = torch.randn(2, tower.dense_channels, side, side), torch.rand(2, 3, side, side) > 0.5
    bias = torch.zeros(2, pool.num_heads, 3, side * side).masked_fill(~visible.flatten(2)[:, None], float("-inf"))
    torch.testing.assert_close(tower.pool_biased(dense, bias), tower.pool_masks(dense, visible))
    # On another grid the position embedding is resized with the corners in place.
    corner = torch.full((1, pool.num_heads, 1, 4), float("-inf"))
    corner[..., 0] = 0
    small = torch.randn(1, tower.dense_channels, 2, 2)
    key = small[..., 0, 0] + pool.positional_embedding[1]
    torch.testing.assert_close(tower.pool_biased(small, corner)[:, 0], pool.c_proj(pool.v_proj(key)))
