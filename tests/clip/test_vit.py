"""The piecewise ViT against open_clip's own forward, and class rows against one dense attention mask."""

import pytest
import torch

from maft.clip import load_clip
from maft.clip.vit import (
    embed_patches,
    encode_vit,
    project_tokens,
    require_plain_vit,
    resize_position_embedding,
    run_block,
    run_blocks,
    run_class_rows,
)
from maft.errors import UserError


@pytest.fixture
def visual(vit_clip):
    visual = vit_clip().visual
    # Untrained position embeddings and biases are too small to show a mistake.
    for parameter in visual.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return visual


def dense_reference(visual, tokens, visible, start):
    """Section 3.2 word for word: [N class rows, patches] through stock blocks with one boolean mask."""
    tokens = run_blocks(visual, tokens, 0, start)
    batch, number, patches = visible.shape
    tokens = torch.cat([tokens[:, :1].expand(-1, number, -1), tokens[:, 1:]], dim=1)
    allowed = torch.zeros(batch, number + patches, number + patches, dtype=torch.bool)
    allowed[:, :number, :number] = torch.eye(number, dtype=torch.bool)
    allowed[:, :number, number:] = visible
    allowed[:, number:, number:] = True
    bias = torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf"))
    for block in visual.transformer.resblocks[start:]:
        tokens = block(tokens, attn_mask=bias.repeat_interleave(block.attn.num_heads, dim=0))
    return tokens[:, :number]


@torch.no_grad()
def test_whole_images_agree_with_open_clip_at_native_size(visual):
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encode_vit(visual, pixels), visual(pixels), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_block_agrees_with_open_clip_with_and_without_bias(visual):
    tokens, bias = torch.randn(2, 9, 32), torch.randn(9, 9)
    block = visual.transformer.resblocks[0]
    torch.testing.assert_close(run_block(block, tokens), block(tokens), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run_block(block, tokens, bias), block(tokens, attn_mask=bias), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_class_rows_equal_one_dense_mask(visual, start, size):
    tokens, grid = embed_patches(visual, torch.randn(2, 3, *size), align_corners=True)
    visible = torch.rand(2, 5, grid[0] * grid[1]) > 0.6
    visible[0, 0], visible[1, 1] = False, True
    rows = run_class_rows(visual, run_blocks(visual, tokens, 0, start), visible, start)
    torch.testing.assert_close(rows, dense_reference(visual, tokens, visible, start), rtol=1e-4, atol=1e-4)


def test_checkpointing_changes_neither_values_nor_gradients(visual):
    visible = torch.rand(1, 3, 16) > 0.5
    gradients = []
    for checkpointing in (False, True):
        visual.requires_grad_(True).zero_grad()
        tokens, _ = embed_patches(visual, torch.ones(1, 3, 32, 32))
        tokens = run_blocks(visual, tokens, 0, 2, checkpointing=checkpointing)
        rows = run_class_rows(visual, tokens, visible, 2, checkpointing=checkpointing)
        project_tokens(visual, rows).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in visual.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_position_embedding_keeps_its_class_row_and_its_native_grid():
    position = torch.randn(17, 8)
    assert resize_position_embedding(position, (4, 4), (4, 4)) is position
    resized = resize_position_embedding(position, (4, 4), (3, 7), align_corners=True)
    assert resized.shape == (22, 8)
    torch.testing.assert_close(resized[0], position[0])
    # With aligned corners the corner cells keep their values.
    torch.testing.assert_close(resized[[1, 7, 15, 21]], position[[1, 4, 13, 16]])


def test_other_towers_are_refused_in_one_sentence():
    clip = load_clip("RN50", "openai", device="meta")
    with pytest.raises(UserError, match=r"IPCLIP needs a CLIP ViT.*ModifiedResNet.*ViT-B-16"):
        require_plain_vit(clip.visual, "IPCLIP")
