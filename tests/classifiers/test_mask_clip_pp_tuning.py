"""What MaskCLIP++ tunes: the same parameters as its release, by kind of tower."""

import open_clip
import pytest
from timm.models.eva import Eva
from torch import nn

from maft.classifiers.mask_clip_pp_tuning import tuned_image_parameters, tuned_text_parameters
from maft.clip import load_clip
from maft.errors import UserError


def names(module, parameters):
    tuned = {id(parameter) for parameter in parameters}
    return {name for name, parameter in module.named_parameters() if id(parameter) in tuned}


@pytest.fixture(scope="module")
def clip():
    return load_clip("tiny_vit", "random")


@pytest.mark.parametrize(("fused", "expected"), [(False, {"q_proj.weight", "v_proj.weight"}), (True, {"qkv.weight"})])
def test_eva_tunes_queries_values_and_positions(fused, expected):
    tower = Eva(img_size=28, patch_size=14, embed_dim=24, depth=2, num_heads=2, qkv_fused=fused)
    wanted = {f"blocks.{block}.attn.{end}" for block in range(2) for end in expected} | {"pos_embed"}
    assert names(tower, tuned_image_parameters(tower, "attention")) == wanted


def test_clip_s_vit_tunes_its_joint_projections(clip):
    tower = clip.visual
    blocks = len(tower.transformer.resblocks)
    ends = ("weight", "bias")
    wanted = {f"transformer.resblocks.{block}.attn.in_proj_{end}" for block in range(blocks) for end in ends}
    assert names(tower, tuned_image_parameters(tower, "attention")) == wanted | {"positional_embedding"}
    assert names(tower, tuned_image_parameters(tower, "all")) == {name for name, _ in tower.named_parameters()}
    assert not list(tuned_image_parameters(tower, "none"))


def test_the_text_tower_s_rules(clip):
    attention = names(clip.model, tuned_text_parameters(clip, "attention"))
    released = names(clip.model, tuned_text_parameters(clip, "attention_mlp_norms"))
    assert attention < released
    assert all(name.endswith(("attn.in_proj_weight", "positional_embedding")) for name in attention)
    assert {name.split(".")[-2] for name in released - attention} == {"ln_1", "ln_2", "c_fc", "c_proj"}
    assert not any(name.startswith("visual") or "token_embedding" in name or "ln_final" in name for name in released)
    assert not list(tuned_text_parameters(clip, "none"))


def test_towers_without_such_parts_are_refused():
    with pytest.raises(UserError, match="has no attention in blocks"):
        list(tuned_image_parameters(nn.Conv2d(3, 4, 2), "attention"))
    clip = load_clip("tiny_siglip", "random")
    assert isinstance(clip.model, open_clip.CustomTextCLIP)
    assert list(tuned_text_parameters(clip, "attention"))
