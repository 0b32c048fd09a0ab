"""Mask prompts on a ViT: what is replaced where, and that CLIP's own weights stay as they are."""

import pytest
import torch
from golden.runner import run_case

from maft.clip import clip_from_config
from maft.clip.mask_prompts import MaskPrompts
from maft.errors import UserError

LAYERS, PATCH, SIDE, WIDTH = 3, 8, 32, 64


def make_clip(**vision):
    described = {
        "embed_dim": 24,
        "vision_cfg": {"layers": LAYERS, "width": WIDTH, "patch_size": PATCH, "image_size": SIDE, **vision},
        "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 2, "layers": 1},
    }
    return clip_from_config("small", described, quick_gelu=True)


@pytest.fixture(scope="module")
def tower():
    return make_clip().tower


def left_half(count=1):
    masks = torch.zeros(count, 1, SIDE, SIDE)
    masks[..., : SIDE // 2] = 1
    return masks


@pytest.mark.parametrize("depth", [1, 2, LAYERS])
def test_replaced_after_every_block(tower, depth):
    """The definition, spelt with open_clip's own blocks and a loop over depths."""
    prompts, pixels, visual = MaskPrompts(tower, depth), torch.randn(2, 3, SIDE, SIDE), tower.visual
    masks = left_half(2)
    masks[1, 0, 0, 31] = 1  # one pixel keeps its whole patch
    keep = torch.zeros(2, 4, 4)
    keep[:, :, :2] = 1
    keep[1, 0, 3] = 1
    keep = keep.flatten(1)[..., None]
    with torch.no_grad():
        tokens = visual.conv1(pixels).flatten(2).mT
        tokens = tokens * keep + prompts.tokens[0] * (1 - keep)
        tokens = torch.cat([visual.class_embedding.expand(2, 1, -1), tokens], 1) + visual.positional_embedding
        tokens = visual.ln_pre(tokens)
        for index, block in enumerate(visual.transformer.resblocks):
            tokens = block(tokens)
            if index + 1 < depth:
                patches = tokens[:, 1:] * keep + prompts.tokens[index + 1] * (1 - keep)
                tokens = torch.cat([tokens[:, :1], patches], 1)
        expected = visual.ln_post(tokens[:, 0]) @ visual.proj
        torch.testing.assert_close(prompts(tower, pixels, masks), expected, atol=1e-5, rtol=1e-5)


def test_a_full_mask_is_plain_clip(tower):
    prompts, pixels = MaskPrompts(tower, 2), torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        masked = prompts(tower, pixels, torch.ones(1, 1, SIDE, SIDE))
        torch.testing.assert_close(masked, tower.encode(pixels))


def test_hidden_pixels_do_not_matter(tower):
    prompts, pixels = MaskPrompts(tower, 1), torch.randn(1, 3, SIDE, SIDE)
    other = pixels.clone()
    other[..., SIDE // 2 :] = torch.randn(1, 3, SIDE, SIDE // 2)
    with torch.no_grad():
        assert torch.equal(prompts(tower, pixels, left_half()), prompts(tower, other, left_half()))


@torch.no_grad()
@pytest.mark.parametrize("name", ["MobileCLIP2-B", "MobileCLIP2-L-14", "EVA01-g-14", "EVA02-B-16", "EVA02-E-14"])
def test_towers_of_timm_have_prompts_too(shrunk_clip, name):
    tower, side = shrunk_clip(name).tower, 8 * shrunk_clip(name).tower.stride
    pixels, other = torch.randn(2, 1, 3, side, side)
    whole, left = torch.ones(1, 1, side, side), torch.zeros(1, 1, side, side)
    left[..., : side // 2] = 1
    other[..., : side // 2] = pixels[..., : side // 2]
    for depth in (1, 3):
        prompts = MaskPrompts(tower, depth, (side, side))
        torch.testing.assert_close(prompts(tower, pixels, whole), tower.encode(pixels), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(prompts(tower, pixels, left), prompts(tower, other, left), rtol=1e-4, atol=1e-5)
        assert (prompts(tower, pixels, left) - tower.encode(pixels)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP2", "PE-Core-B-16", "ViT-L-14-CLIPA", "convnext_base"])
def test_towers_without_a_class_token_have_none(shrunk_clip, name):
    with pytest.raises(UserError, match=f"MASK_PROMPT_DEPTH above 0 does not work with the image tower of {name}"):
        MaskPrompts(shrunk_clip(name).tower, 1)


def test_prompts_learn_only_where_a_region_is_blank(tower):
    prompts = MaskPrompts(tower, 2)
    prompts(tower, torch.randn(2, 3, SIDE, SIDE), left_half(2)).square().sum().backward()
    shown = torch.zeros(4, 4, dtype=torch.bool)
    shown[:, :2] = True
    gradient = prompts.tokens.grad
    assert (gradient[:, shown.flatten()] == 0).all() and (gradient[:, ~shown.flatten()] != 0).any(-1).all()
    assert all(parameter.grad is None for parameter in tower.visual.parameters())


def test_refusals(tower):
    with pytest.raises(UserError, match="MASK_PROMPT_DEPTH 4 does not fit the CLIP tower of 3 blocks"):
        MaskPrompts(tower, LAYERS + 1)
    with pytest.raises(UserError, match="grid of 4x4 patches and the regions make 2x4"):
        MaskPrompts(tower, 1)(tower, torch.randn(1, 3, 16, SIDE), torch.ones(1, 1, 16, SIDE))
    with pytest.raises(UserError, match="MASK_PROMPT_DEPTH above 0 does not work with.*attention pool.*ViT-B-16"):
        MaskPrompts(make_clip(layers=[1, 1, 1, 1], width=8).tower, 1)


def test_agrees_with_the_recording(golden_dir):
    result = run_case(golden_dir / "ovseg" / "mask_prompt_vit_d3.json")
    assert result.status == "pass", result.detail
