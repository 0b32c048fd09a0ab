"""Blocks taken apart, against the libraries' own forward."""

import pytest
import torch

from maft.clip.towers.blocks import attention_inputs, run_block


@pytest.fixture(params=["ViT-B-16", "MobileCLIP2-L-14", "EVA01-g-14", "EVA02-B-16", "EVA02-E-14", "PE-Core-B-16"])
def tower(request, shrunk_clip):
    return shrunk_clip(request.param).tower


@torch.no_grad()
def test_a_block_agrees_with_its_library_with_and_without_mask(tower):
    grid, block = tower.sequence.native, tower.blocks[0]
    rotation = tower.sequence.rotation(grid)
    length = tower.prefix + grid[0] * grid[1]
    tokens, allowed = torch.randn(2, length, tower.width), torch.rand(length, length) > 0.5
    allowed[:, 0] = True
    options = {} if rotation is None else {"rope": rotation}
    torch.testing.assert_close(run_block(block, tokens, rotation), block(tokens, **options), rtol=1e-4, atol=1e-5)
    bias = torch.zeros(length, length).masked_fill(~allowed, float("-inf"))
    expected = block(tokens, attn_mask=bias, **options)
    torch.testing.assert_close(run_block(block, tokens, rotation, allowed), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("tower", ["EVA02-B-16", "PE-Core-B-16"], indirect=True)
def test_rotation_is_of_the_patches_alone(tower):
    grid, block = tower.sequence.native, tower.blocks[0]
    tokens, rotation = torch.randn(1, 1 + grid[0] * grid[1], tower.width), tower.sequence.rotation(grid)
    rotated, plain = attention_inputs(block, tokens, rotation), attention_inputs(block, tokens)
    for part, unrotated in zip(rotated[:2], plain[:2], strict=True):
        torch.testing.assert_close(part[:, :, 0], unrotated[:, :, 0])
        assert (part[:, :, 2:] - unrotated[:, :, 2:]).abs().max() > 1e-2
    torch.testing.assert_close(rotated[2], plain[2])
    # Patches without their class token, as IP-CLIP runs them.
    patches = attention_inputs(block, tokens[:, 1:], rotation)
    torch.testing.assert_close(patches[0], rotated[0][:, :, 1:])
