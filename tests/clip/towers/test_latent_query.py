"""Pools with a learned query."""

import pytest
import torch

NAMES = ["ViT-B-16-SigLIP2", "PE-Core-B-16", "coca_ViT-B-32", "coca_ViT-L-14"]
SIZE = (128, 192)


@pytest.fixture(params=NAMES)
def tower(request, shrunk_clip):
    return shrunk_clip(request.param).tower


def left_half(tower):
    grid = tower.grid(*SIZE)
    visible = torch.zeros(1, 3, *grid, dtype=torch.bool)
    visible[:, 0, :, : grid[1] // 2] = True
    visible[:, 1] = True
    return visible


@torch.no_grad()
def test_a_full_mask_and_an_empty_one_are_the_image(tower):
    pixels, visible = torch.randn(1, 3, *SIZE), left_half(tower).flatten(2)
    embeddings, whole = tower.encode_masked(pixels, visible, 0), tower.encode(pixels)
    torch.testing.assert_close(embeddings[:, 1:], whole[:, None].expand(-1, 2, -1), rtol=1e-4, atol=1e-5)
    assert (embeddings[:, 0] - whole).abs().max() > 1e-3


@torch.no_grad()
def test_patches_that_a_mask_hides_in_the_pool_cannot_change_it(tower, monkeypatch):
    pixels, visible = torch.randn(1, 3, *SIZE), left_half(tower).flatten(2)
    before = tower.encode_masked(pixels, visible, 0)
    run = tower.tokens

    def changed(*arguments, **options):
        tokens, grid = run(*arguments, **options)
        tokens = tokens.clone()
        tokens[:, tower.prefix :][:, ~visible[0, 0]] += 1 + torch.rand(tower.width)
        return tokens, grid

    monkeypatch.setattr(tower, "tokens", changed)
    after = tower.encode_masked(pixels, visible, 0)
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert (before[:, 1] - after[:, 1]).abs().max() > 1e-3


@torch.no_grad()
def test_the_pool_over_a_single_position_is_its_value(tower):
    dense = tower.dense_features(torch.randn(1, 3, *SIZE))["dense"]
    one = torch.zeros(1, 1, *dense.shape[-2:], dtype=torch.bool)
    one[..., 1, 2] = True
    projected = tower.project_dense(dense)
    torch.testing.assert_close(tower.pool_masks(dense, one)[:, 0], projected[..., 1, 2], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_masks_of_dense_features_see_their_own_positions_alone(tower):
    pixels, inside = torch.randn(1, 3, *SIZE), left_half(tower)
    dense = tower.dense_features(pixels)["dense"]
    pooled = tower.pool_masks(dense, inside)
    if not tower.pooled_prefix:
        torch.testing.assert_close(pooled[:, 1], tower.encode(pixels), rtol=1e-4, atol=1e-5)
    width = dense.shape[-1] // 2
    half = tower.pool_masks(dense[..., :width], inside[:, :1, :, :width])
    torch.testing.assert_close(pooled[:, 0], half[:, 0], rtol=1e-4, atol=1e-5)


def test_the_attention_of_the_pool_is_tuned_and_its_query_and_mlp_are_not(tower):
    names = {parameter: name for name, parameter in tower.visual.named_parameters()}
    tuned = {names[parameter] for parameter in tower.attention_and_norms() if "attn_pool" in names[parameter]}
    assert tuned and not any(name.endswith(("latent", "pool.query")) or ".mlp." in name for name in tuned)
