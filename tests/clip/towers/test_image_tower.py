"""Every kind of image tower against open_clip's own forward, and what each kind is for."""

from copy import deepcopy

import pytest
import torch
from open_clip.timm_model import TimmModel
from torch import nn

from maft.clip.towers import image_tower
from maft.errors import UserError

KINDS = {
    "ViT-B-16": "class token",
    "ViT-M-16-alt": "class token",
    "MobileCLIP2-B": "class token",
    "MobileCLIP2-L-14": "class token",
    "EVA01-g-14": "class token",
    "EVA02-B-16": "class token",
    "EVA02-E-14": "class token",
    "ViT-B-16-SigLIP2": "latent query",
    "PE-Core-S-16-384": "latent query",
    "PE-Core-B-16": "latent query",
    "coca_ViT-B-32": "latent query",
    "coca_ViT-L-14": "latent query",
    "ViT-L-14-CLIPA": "mean of tokens",
    "ViTamin-L": "mean of tokens",
    "vit_medium_patch16_gap_256": "mean of tokens",
    "convnext_base": "mean of a map",
    "MobileCLIP-S1": "mean of a map",
    "MobileCLIP2-S3": "mean of a map",
    "swin_base_patch4_window7_224": "mean of a map",
    "RN50": "attention pool",
    "vit_relpos_medium_patch16_cls_224": "class token, relative positions",
}
ANY_SIZE = [name for name in KINDS if "relpos" not in name]


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_whole_images_agree_with_open_clip_at_native_size(shrunk_clip, name):
    clip = shrunk_clip(name)
    pixels = torch.randn(2, 3, *clip.image_size)
    expected = clip.visual(pixels)
    assert clip.tower.kind == KINDS[name] and (expected[0] - expected[1]).abs().max() > 1e-3
    torch.testing.assert_close(clip.encode_image(pixels), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ANY_SIZE)
def test_any_size_makes_an_embedding_and_a_map_of_the_stated_size(shrunk_clip, name):
    clip = shrunk_clip(name)
    for size in ((96, 160), (101, 75)):
        pixels = torch.randn(1, 3, *size)
        assert clip.tower.encode(pixels).isfinite().all()
        dense = clip.tower.dense_features(pixels)["dense"]
        assert dense.shape[1] == clip.tower.dense_channels
        assert clip.tower.project_dense(dense).shape == (1, clip.embed_dim, *dense.shape[-2:])
        masked = clip.tower.pool_masks(dense, torch.ones(1, 2, *dense.shape[-2:], dtype=torch.bool))
        assert masked.shape == (1, 2, clip.embed_dim) and masked.isfinite().all()
        if "proposal masks" not in clip.tower.refusals:
            assert clip.tower.grid(*size) == dense.shape[-2:]


@pytest.mark.parametrize("name", ANY_SIZE)
def test_half_precision_stays_close_and_gradients_are_finite(shrunk_clip, name):
    clip = shrunk_clip(name)
    visual = deepcopy(clip.visual).requires_grad_(True)
    tower = image_tower(visual, name)
    pixels = torch.randn(1, 3, 64, 96)
    whole = tower.encode(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        half, dense = tower.encode(pixels), tower.dense_features(pixels)["dense"]
        projected = tower.project_dense(dense)
    assert torch.nn.functional.cosine_similarity(half.float(), whole, dim=-1).min() > 0.98
    (half.float().sum() + projected.float().square().sum()).backward()
    gradients = [parameter.grad for parameter in visual.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert all(parameter.grad is None for parameter in clip.visual.parameters())


@pytest.mark.parametrize("name", ANY_SIZE)
def test_what_dense_features_do_not_read_is_named(shrunk_clip, name):
    """MAFT+ trains the rest: a parameter without a gradient would stop distributed training."""
    visual = deepcopy(shrunk_clip(name).visual).requires_grad_(True)
    tower = image_tower(visual, name)
    tower.dense_features(torch.randn(1, 3, 64, 64))["dense"].square().sum().backward()
    for parameter_name, parameter in visual.named_parameters():
        assert (parameter.grad is None) == parameter_name.startswith(tower.head_names), parameter_name


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_saved_and_loaded_it_does_the_same(shrunk_clip, name):
    clip = shrunk_clip(name)
    copy = deepcopy(clip.visual)
    for parameter in copy.parameters():
        nn.init.zeros_(parameter)
    copy.load_state_dict(clip.visual.state_dict())
    pixels = torch.randn(1, 3, *clip.image_size)
    torch.testing.assert_close(image_tower(copy, name).encode(pixels), clip.tower.encode(pixels))


@pytest.mark.parametrize(
    ("name", "ability", "sentence"),
    [
        ("RN50", "proposal masks", r"X does not work with the image tower of RN50 \(attention pool\): .*MaskPooling"),
        ("convnext_base", "mask prompts", "mean of a map.*MASK_PROMPT_DEPTH to 0"),
        ("ViT-B-16", "feature pyramid", "class token.*one feature map and a backbone needs four.*convnext_large_d_320"),
        ("ViT-B-16-SigLIP2", "mask prompts", "latent query.*class token"),
        ("vit_relpos_medium_patch16_cls_224", "dense features", "relative positions.*native size alone.*MaskedCrops"),
    ],
)
def test_what_a_kind_cannot_do_is_refused_with_the_reason(shrunk_clip, name, ability, sentence):
    with pytest.raises(UserError, match=sentence):
        shrunk_clip(name).tower.require(ability, "X")


def test_relative_positions_know_one_size(shrunk_clip):
    with pytest.raises(UserError, match="sees images of 224x224 pixels only, and was given 96x160"):
        shrunk_clip("vit_relpos_medium_patch16_cls_224").tower.encode(torch.randn(1, 3, 96, 160))


def test_other_towers_are_refused_in_one_sentence():
    with torch.device("meta"):
        pooled = TimmModel("resnet18", 16, pool="rot_attn", proj="")
        unknown = TimmModel("resnet18", 16, pool="avg", proj="linear")
    for visual in (pooled, unknown, nn.Linear(2, 2)):
        with pytest.raises(UserError, match=r"image tower of mine \((ResNet|Linear)\) is not supported: choose"):
            image_tower(visual, "mine")
