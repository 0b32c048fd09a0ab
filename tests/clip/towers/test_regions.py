"""TextRegion's pooling against the towers' own attention, whose mask or weights make it the same."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock

from maft.clip.towers.regions import region_pool
from maft.errors import UserError

CLASS_TOKENS = ["ViT-B-16", "EVA01-g-14", "EVA02-B-16", "EVA02-E-14"]
LEARNED_QUERIES = ["ViT-B-16-SigLIP2", "PE-Core-B-16", "coca_ViT-B-32"]
SIZE = (96, 128)


def attended(block, tokens, cell):
    """What the block's own attention adds to the first token when it sees one cell alone."""
    length = tokens.shape[1]
    mask = torch.full((length, length), float("-inf"))
    mask[:, cell] = 0
    if isinstance(block, ResidualAttentionBlock):
        normal = block.ln_1(tokens)
        return block.ls_1(block.attn(normal, normal, normal, need_weights=False, attn_mask=mask)[0])[:, 0]
    before = tokens
    block.mlp = torch.nn.Identity()
    if hasattr(block, "gamma_2") and block.gamma_2 is not None:
        block.gamma_2.zero_()
        return (block(tokens, attn_mask=mask[None, None]) - before)[:, 0]
    # Without an MLP that could be scaled away, what it adds is its norm of what the attention leaves.
    scale = block.norm2
    scale.weight.zero_()
    scale.bias.zero_()
    return (block(tokens, attn_mask=mask[None, None]) - before)[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("name", CLASS_TOKENS)
def test_a_region_of_one_cell_is_what_the_last_attention_makes_of_it(shrunk_clip, name):
    tower = shrunk_clip(name).tower
    pixels = torch.randn(1, 3, *SIZE)
    pool = region_pool(tower, "x")
    features, _ = pool.features(pixels)
    flat = features[0].flatten(1).T
    weights = torch.zeros(2, len(flat))
    weights[0, 5] = weights[1, 0] = 1
    tokens, _ = tower.tokens(pixels, len(tower.blocks) - 1)
    found = pool.pool(flat, weights)
    for row, cell in enumerate((5, 0)):
        block = deepcopy(tower.blocks[-1])
        expected = tower.project(attended(block, tokens, tower.prefix + cell))
        torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", CLASS_TOKENS)
def test_weights_are_sums_and_the_mlp_has_no_residual_from_the_block(shrunk_clip, name):
    tower = shrunk_clip(name).tower
    pool = region_pool(tower, "x")
    features, cells = torch.randn(12, tower.width), torch.rand(3, 12)
    torch.testing.assert_close(pool.pool(features, cells), pool.pool(2 * features, cells / 2), rtol=1e-4, atol=1e-5)
    assert (pool.pool(features, cells) - pool.pool(features, cells, mlp=True)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", LEARNED_QUERIES)
def test_a_query_of_uniform_attention_without_its_mlp(shrunk_clip, name):
    clip = shrunk_clip(name)
    pool, tower = region_pool(clip.tower, "x"), clip.tower
    features, _ = pool.features(torch.randn(1, 3, *SIZE))
    inside = torch.rand(1, 4, *features.shape[-2:]) > 0.5
    inside[0, 0] = False
    inside[0, 0, 1, 1] = True
    found = pool.pool(features[0].flatten(1).T, inside[0].flatten(1).float())
    inner = tower.pool.pool
    if name.startswith("coca"):
        inner.attn.in_proj_bias[: inner.attn.embed_dim] = 0
        query = inner.attn.q_proj_weight if inner.attn.in_proj_weight is None else inner.attn.in_proj_weight.chunk(3)[0]
        query.zero_()
    else:
        inner.q.weight.zero_()
        inner.q.bias.zero_()
        inner.mlp.fc2.weight.zero_()
        inner.mlp.fc2.bias.zero_()
    torch.testing.assert_close(found, tower.pool_masks(features, inside)[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_cell_by_itself_is_the_last_block_with_both_attentions(shrunk_clip):
    clip = shrunk_clip("ViT-B-16")
    tower, pixels = clip.tower, torch.randn(2, 3, *SIZE)
    _, dense = region_pool(tower, "x").features(pixels, dense=True)
    tokens, grid = tower.tokens(pixels, len(tower.blocks) - 1)
    block = tower.blocks[-1]
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    parts = F.linear(block.ln_1(tokens), weight, bias).chunk(3, -1)
    query, key, value = (part.unflatten(2, (block.attn.num_heads, -1)).transpose(1, 2) for part in parts)
    scale = query.shape[-1] ** -0.5
    weights = sum((part @ part.transpose(-1, -2) * scale).softmax(-1) for part in (query, key))
    tokens = tokens + block.attn.out_proj((weights @ value).transpose(1, 2).flatten(2))
    tokens = tokens + block.mlp(block.ln_2(tokens))
    expected = F.normalize(tower.project(tokens[:, 1:]), dim=-1).transpose(1, 2).unflatten(2, grid)
    torch.testing.assert_close(dense, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("name", "size", "changes"), [
    ("ViT-B-16", (96, 96), True), ("ViT-B-16", (224, 224), False), ("PE-Core-B-16", (224, 224), True),
    ("ViT-B-16-SigLIP2", (224, 224), False),
])  # fmt: skip
def test_official_positions_matter_where_they_are_resized_or_rotated(shrunk_clip, name, size, changes):
    pool, pixels = region_pool(shrunk_clip(name).tower, "x"), torch.randn(1, 3, *size)
    exact, official = (pool.features(pixels, official_positions=flag)[0] for flag in (False, True))
    assert ((exact - official).abs().max() > 1e-4) == changes


ATTENTION = "defined for the attention of a class token or a learned query"


@pytest.mark.parametrize(("name", "reason"), [
    ("RN50", ATTENTION), ("convnext_base", ATTENTION), ("ViT-L-14-CLIPA", "the mean of the tokens"),
    ("vit_relpos_medium_patch16_cls_224", "relative positions of its native size"),
])  # fmt: skip
def test_towers_without_such_an_attention_say_so(shrunk_clip, name, reason):
    with pytest.raises(UserError, match=f"(?s)^TextRegion does not work with the image tower of .*{reason}"):
        region_pool(shrunk_clip(name).tower, "TextRegion")
