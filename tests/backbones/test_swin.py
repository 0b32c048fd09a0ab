"""The Swin backbone: sizes, window shifts, stochastic depth and the released names."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_backbone
from golden.runner import run_case

from maft.backbones.swin import SwinBlock, SwinTransformer, shifted_window_mask
from maft.checkpoint.key_map import KeyMap, differences, load_strictly
from maft.checkpoint.official.backbones import SWIN_RULES as RULES
from maft.config import load_config
from maft.errors import UserError

SMALL = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "out_features": ("res2", "res3")}


def config(tmp_path: Path, **swin: object):
    file = tmp_path / "swin.yaml"
    file.write_text(json.dumps({"MODEL": {"BACKBONE": {"NAME": "build_swin_backbone", "FREEZE_AT": 0}, "SWIN": swin}}))
    return load_config(file)


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (7, 5)])
def test_any_image_size(size):
    model = SwinTransformer(**SMALL).eval()
    features = model(torch.randn(2, 3, *size))
    for name, shape in model.output_shape().items():
        expected = tuple(-(-side // shape.stride) for side in size)
        assert features[name].shape == (2, shape.channels, *expected)


def test_shift_mask_separates_what_the_roll_brings_together():
    mask = shifted_window_mask(8, 8, 4, 2, torch.device("cpu")).view(2, 2, 16, 16)
    assert (mask[0, 0] == 0).all()
    assert ((mask == 0) | (mask == -100)).all()
    # Bottom right window: rolled rows 6..7, 0..1 and the same columns; only equal halves see each other.
    half = (torch.arange(4) >= 2).long()
    region = (2 * half[:, None] + half[None]).flatten()
    assert torch.equal(mask[1, 1] == 0, region[:, None] == region[None])


def test_padding_precedes_the_shift():
    """A shifted block on a padded map is the same block on the map padded beforehand with what norm1 leaves: zeros."""
    block = SwinBlock(8, 1, 4, 2, 4.0, True, 0.0).eval()
    x = torch.randn(1, 6, 5, 8)
    mask = shifted_window_mask(8, 8, 4, 2, x.device)
    y = torch.nn.functional.pad(block.norm1(x), (0, 0, 0, 3, 0, 2))
    y = torch.roll(y, (-2, -2), (1, 2)).view(1, 2, 4, 2, 4, 8).transpose(2, 3).reshape(4, 16, 8)
    y = block.attn(y, mask=mask).view(1, 2, 2, 4, 4, 8).transpose(2, 3).reshape(1, 8, 8, 8)
    y = x + torch.roll(y, (2, 2), (1, 2))[:, :6, :5]
    torch.testing.assert_close(block(x, mask), y + block.mlp(block.norm2(y)))


def test_config_builds_it_and_every_key_arrives(tmp_path):
    cfg = config(tmp_path, EMBED_DIM=16, DEPTHS=[2, 2, 3, 2], NUM_HEADS=[1, 2, 4, 8], WINDOW_SIZE=4, APE=True,
                 PRETRAIN_IMG_SIZE=64, PATCH_NORM=False, DROP_PATH_RATE=0.8, QKV_BIAS=False, MLP_RATIO=2.0,
                 OUT_FEATURES=["res3", "res5"])  # fmt: skip
    model = build_backbone(cfg)
    assert model.absolute_pos_embed.shape == (1, 16, 16, 16)
    assert isinstance(model.patch_embed.norm, torch.nn.Identity)
    assert model.layers[0].blocks[0].attn.qkv.bias is None
    assert model.layers[0].blocks[0].mlp.fc1.out_features == 32
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx([0.1 * index for index in range(9)])
    assert list(model(torch.randn(1, 3, 40, 56))) == ["res3", "res5"]


def test_heads_that_do_not_fit_the_stages_are_refused():
    with pytest.raises(UserError, match="one head count per stage"):
        SwinTransformer(depths=(2, 2), num_heads=(1,))
    with pytest.raises(UserError, match="res9"):
        SwinTransformer(**{**SMALL, "out_features": ("res9",)})


def test_freeze_at_counts_like_detectron2():
    model = SwinTransformer(**SMALL, freeze_at=2)
    trainable = {
        name.split(".")[0] + "." + name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad
    }
    assert trainable == {"layers.1", "norms.res2", "norms.res3"}


def test_drop_path_skips_samples_in_training_only():
    model = SwinTransformer(**SMALL, drop_path_rate=0.9)
    image = torch.randn(1, 3, 32, 32).expand(8, -1, -1, -1)
    trained = model.train()(image)["res3"]
    assert not torch.allclose(trained[0], trained[1:]) and (trained[1:] != trained[0]).any()
    evaluated = model.eval()(image)["res3"]
    torch.testing.assert_close(evaluated, evaluated[:1].expand_as(evaluated))


def test_activation_checkpointing_has_the_same_gradients():
    plain = SwinTransformer(**SMALL, drop_path_rate=0.0)
    saving = SwinTransformer(**SMALL, drop_path_rate=0.0, activation_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 32, 40)
    for model in (plain, saving):
        model.train()(image)["res3"].square().sum().backward()
    for (name, left), right in zip(plain.named_parameters(), saving.parameters()):
        if left.grad is None:
            assert right.grad is None, name
        else:
            torch.testing.assert_close(left.grad, right.grad)


def test_autocast_agrees_with_float32():
    model, image = SwinTransformer(**SMALL).eval(), torch.randn(2, 3, 40, 56)
    exact = model(image)["res3"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(image)["res3"].float()
    assert torch.nn.functional.cosine_similarity(low.flatten(), exact.flatten(), dim=0) > 0.999


def test_imagenet_checkpoint_names():
    """Microsoft's ImageNet files have no per-stage norms: these are the only names missing."""
    model = SwinTransformer(**SMALL)
    official = {name: value for name, value in model.state_dict().items() if not name.startswith("norms.")}
    official["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    missing = load_strictly(model, KeyMap(RULES).convert(official), "an ImageNet file", may_lack=("norms.",))
    assert sorted(missing) == ["norms.res2.bias", "norms.res2.weight", "norms.res3.bias", "norms.res3.weight"]


def test_released_names_and_shapes(golden_dir):
    released = json.loads((golden_dir / "ovseg" / "checkpoint_keys.json").read_text())
    keys = next(record["keys"] for name, record in released.items() if "swinbase" in name)
    official = {
        name.removeprefix("backbone."): torch.Size(shape[:-1])
        for name, shape in keys.items()
        if name.startswith("backbone.")
    }
    with torch.device("meta"):
        model = SwinTransformer(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), window_size=12)
    assert differences(model.state_dict(), KeyMap(RULES).convert(official)) == []


def test_agrees_with_the_recording(golden_dir):
    result = run_case(golden_dir / "ovseg" / "swin_backbone.json")
    assert result.status == "pass", result.detail
