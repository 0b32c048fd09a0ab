"""Class tokens and means of tokens: masks, dense features and recomputed blocks."""

from copy import deepcopy

import pytest
import torch

from maft.clip.towers import image_tower
from maft.clip.towers.blocks import run_block

CLASS_TOKENS = ["ViT-B-16", "MobileCLIP2-B", "EVA01-g-14", "EVA02-B-16", "EVA02-E-14"]
MEANS = ["ViT-L-14-CLIPA", "ViTamin-L", "vit_medium_patch16_gap_256"]


def masks_of(tower, size):
    """A mask of the left half, one of everything and one of nothing, and their grid."""
    grid = tower.grid(*size)
    visible = torch.zeros(1, 3, *grid, dtype=torch.bool)
    visible[:, 0, :, : grid[1] // 2] = True
    visible[:, 1] = True
    return visible.flatten(2), grid


@torch.no_grad()
@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("name", CLASS_TOKENS)
def test_class_rows_equal_one_sequence_under_one_mask(shrunk_clip, name, start):
    tower, size = shrunk_clip(name).tower, (64, 96)
    visible, _ = masks_of(tower, size)
    tokens, grid = tower.tokens(torch.randn(1, 3, *size), start)
    expected = tower.class_rows_by_definition(tokens, grid, visible, start)
    torch.testing.assert_close(tower.class_rows(tokens, grid, visible, start), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("keeps_class_token", [False, True])
@pytest.mark.parametrize("sees_itself", [False, True])
@pytest.mark.parametrize("name", CLASS_TOKENS)
def test_class_rows_under_a_bias_equal_one_sequence_under_one_mask(shrunk_clip, name, sees_itself, keeps_class_token):
    tower, size = shrunk_clip(name).tower, (64, 96)
    visible, _ = masks_of(tower, size)
    tokens, grid = tower.tokens(torch.randn(1, 3, *size), 1)
    heads = tower.blocks[0].attn.num_heads
    each = [torch.randn(1, heads, 3, visible.shape[-1]) * 4 for _ in tower.blocks[1:]]
    options = {"sees_itself": sees_itself, "keeps_class_token": keeps_class_token}
    found = []
    for bias in (visible, each[0][:, :1], each[0], each):
        rows = tower.class_rows(tokens, grid, bias, 1, **options)
        expected = tower.class_rows_by_definition(tokens, grid, bias, 1, **options)
        torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)
        found.append(rows)
    # One bias is that of every head and block; and each of these choices counts.
    same = [each[0][:, :1].expand(-1, heads, -1, -1)] * len(each)
    torch.testing.assert_close(tower.class_rows(tokens, grid, same, 1, **options), found[1], rtol=1e-4, atol=1e-4)
    for name in options:
        other = tower.class_rows(tokens, grid, each, 1, **{**options, name: not options[name]})
        assert (other - found[-1]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", CLASS_TOKENS)
def test_class_rows_start_from_the_class_token_or_from_what_is_given(shrunk_clip, name):
    tower, size = shrunk_clip(name).tower, (64, 96)
    visible, _ = masks_of(tower, size)
    tokens, grid = tower.tokens(torch.randn(1, 3, *size), 1)
    rows, options = tokens[:, :1].expand(-1, 3, -1), {"keeps_class_token": True}
    expected = tower.class_rows(tokens, grid, visible, 1, **options)
    torch.testing.assert_close(tower.class_rows(tokens, grid, visible, 1, rows=rows, **options), expected)
    other = torch.randn_like(rows)
    by_definition = tower.class_rows_by_definition(tokens, grid, visible, 1, rows=other, **options)
    found = tower.class_rows(tokens, grid, visible, 1, rows=other, **options)
    torch.testing.assert_close(found, by_definition, rtol=1e-4, atol=1e-4)
    assert (found - expected).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", CLASS_TOKENS)
def test_hidden_patches_cannot_change_a_class_row_of_the_last_block(shrunk_clip, name):
    tower, size = shrunk_clip(name).tower, (64, 96)
    visible, grid = masks_of(tower, size)
    tokens, _ = tower.tokens(torch.randn(1, 3, *size), 2)
    changed = tokens.clone()
    changed[:, 1:][:, ~visible[0, 0]] = torch.randn_like(changed[:, 1:][:, ~visible[0, 0]])
    rows, again = (tower.class_rows(t, grid, visible, 2) for t in (tokens, changed))
    torch.testing.assert_close(rows[:, [0, 2]], again[:, [0, 2]])
    assert (rows[:, 1] - again[:, 1]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", CLASS_TOKENS)
def test_a_full_mask_in_the_last_block_is_the_image(shrunk_clip, name):
    tower, pixels = shrunk_clip(name).tower, torch.randn(1, 3, 64, 96)
    visible, _ = masks_of(tower, (64, 96))
    embeddings = tower.encode_masked(pixels, visible, 2)
    torch.testing.assert_close(embeddings[:, 1], tower.encode(pixels), rtol=1e-4, atol=1e-5)
    assert embeddings.isfinite().all() and (embeddings[:, 0] - embeddings[:, 1]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", CLASS_TOKENS)
def test_dense_features_are_the_last_block_with_every_patch_seeing_itself(shrunk_clip, name):
    tower, pixels = shrunk_clip(name).tower, torch.randn(1, 3, 64, 96)
    tokens, grid = tower.tokens(pixels, 2)
    itself = torch.eye(grid[0] * grid[1], dtype=torch.bool)
    expected = run_block(tower.blocks[2], tokens[:, 1:], tower.sequence.rotation(grid), itself)
    dense = tower.dense_features(pixels)["dense"]
    torch.testing.assert_close(dense, expected.mT.unflatten(2, grid), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", MEANS)
def test_a_mask_takes_the_mean_of_the_tokens_it_shows(shrunk_clip, name):
    tower, pixels = shrunk_clip(name).tower, torch.randn(1, 3, 64, 96)
    visible, grid = masks_of(tower, (64, 96))
    embeddings, whole = tower.encode_masked(pixels, visible, 0), tower.encode(pixels)
    # Everything shown, or nothing, is the image.
    torch.testing.assert_close(embeddings[:, 1:], whole[:, None].expand(-1, 2, -1), rtol=1e-4, atol=1e-5)
    dense = tower.dense_features(pixels)["dense"]
    expected = tower.project_pooled(dense[..., : grid[1] // 2].mean((-2, -1)))
    torch.testing.assert_close(embeddings[:, 0], expected, rtol=1e-4, atol=1e-5)
    inside = torch.ones(1, 1, *grid, dtype=torch.bool)
    torch.testing.assert_close(tower.pool_masks(dense, inside)[:, 0], whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ViT-B-16", "EVA02-B-16", "ViT-L-14-CLIPA", "ViT-B-16-SigLIP2"])
def test_recomputing_the_blocks_changes_neither_values_nor_gradients(shrunk_clip, name):
    visual = deepcopy(shrunk_clip(name).visual).requires_grad_(True)
    tower, gradients = image_tower(visual, name), []
    pixels, (visible, _) = torch.ones(1, 3, 64, 96), masks_of(tower, (64, 96))
    for checkpointing in (False, True):
        visual.zero_grad()
        tower.encode_masked(pixels, visible, 0, checkpointing=checkpointing).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in visual.parameters() if parameter.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@torch.no_grad()
@pytest.mark.parametrize("name", CLASS_TOKENS)
def test_an_embedding_is_the_class_token_of_all_blocks(shrunk_clip, name):
    tower, pixels = shrunk_clip(name).tower, torch.randn(2, 3, 64, 96)
    tokens, _ = tower.tokens(pixels)
    torch.testing.assert_close(tower.encode(pixels), tower.project(tokens[:, 0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ViT-B-16", "EVA02-B-16", "ViT-L-14-CLIPA", "ViT-B-16-SigLIP2"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_masks_and_the_whole_image_of_one_pass_are_those_of_two(shrunk_clip, name, checkpointing, monkeypatch):
    visual = deepcopy(shrunk_clip(name).visual).requires_grad_(True)
    tower = image_tower(visual, name)
    visible, _ = masks_of(tower, (64, 96))
    pixels, start = torch.randn(1, 3, 64, 96), min(2, tower.masked_blocks)
    patches, looks = tower.patches, []
    monkeypatch.setattr(tower, "patches", lambda given: looks.append(given) or patches(given))
    expected = tower.encode_masked(pixels, visible, start), tower.encode(pixels)
    assert len(looks) == 2
    found = tower.encode_masked_and_whole(pixels, visible, start, checkpointing=checkpointing)
    assert len(looks) == 3
    gradients = []
    for rows, whole in (expected, found):
        visual.zero_grad()
        (rows.square().sum() + whole.square().sum()).backward()
        gradients.append([parameter.grad.clone() for parameter in visual.parameters() if parameter.grad is not None])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("name", [*CLASS_TOKENS, *MEANS])
def test_attention_and_norms_leave_out_mlps_embeddings_and_the_projection(shrunk_clip, name):
    tower = shrunk_clip(name).tower
    names = {parameter: name for name, parameter in tower.visual.named_parameters()}
    tuned = {names[parameter] for parameter in tower.attention_and_norms()}
    for part in ("qkv.weight", "in_proj_weight", "v_proj.weight"):
        assert all((name in tuned) for name in names.values() if name.endswith(part))
    assert not {name for name in tuned if "fc1" in name or "c_fc" in name or "embed" in name or "token" in name}
    assert not {"proj", "head.proj.weight", "trunk.head.weight"} & tuned


@pytest.mark.parametrize("sees_itself", [False, True])
def test_gradients_of_biases_are_those_of_small_differences(shrunk_clip, sees_itself):
    clip = deepcopy(shrunk_clip("ViT-B-16")).double()
    with torch.no_grad():
        tokens, grid = clip.tower.tokens(torch.randn(1, 3, 32, 32, dtype=torch.float64), 1)
    bias = torch.randn(1, 1, 1, grid[0] * grid[1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda given: clip.tower.class_rows(tokens, grid, given, 1, sees_itself=sees_itself), bias
    )
