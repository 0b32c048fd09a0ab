"""The piecewise ViT against open_clip's own forward."""

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
)
from maft.errors import UserError


@pytest.fixture
def visual(vit_clip):
    visual = vit_clip().visual
    # Untrained position embeddings and biases are too small to show a mistake.
    for parameter in visual.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return visual


@torch.no_grad()
def test_whole_images_agree_with_open_clip_at_native_size(visual):
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encode_vit(visual, pixels), visual(pixels), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_block_agrees_with_open_clip_with_and_without_bias(visual):
    tokens, bias, allowed = torch.randn(2, 9, 32), torch.randn(9, 9), torch.rand(9, 9) > 0.5
    allowed[:, 0] = True
    block = visual.transformer.resblocks[0]
    torch.testing.assert_close(run_block(block, tokens), block(tokens), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run_block(block, tokens, bias), block(tokens, attn_mask=bias), rtol=1e-4, atol=1e-4)
    bias = torch.zeros(9, 9).masked_fill(~allowed, float("-inf"))
    torch.testing.assert_close(run_block(block, tokens, allowed), block(tokens, attn_mask=bias), rtol=1e-4, atol=1e-4)


def test_checkpointing_changes_neither_values_nor_gradients(visual):
    gradients = []
    for checkpointing in (False, True):
        visual.requires_grad_(True).zero_grad()
        tokens, _ = embed_patches(visual, torch.ones(1, 3, 32, 32))
        tokens = run_blocks(visual, tokens, checkpointing=checkpointing)
        project_tokens(visual, tokens[:, 0]).square().sum().backward()
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
