"""Detectron2's Swin under our names: options, sizes, frozen stages, checkpointing and the released weights."""

import copy
import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_backbone
from golden.runner import run_case

from maft.backbones import Swin
from maft.checkpoint.key_map import differences, load_strictly
from maft.checkpoint.official.released import key_map
from maft.config import load_config
from maft.errors import UserError

SMALL = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "out_features": ("res2", "res3")}


def config(tmp_path: Path, **swin: object):
    file = tmp_path / "swin.yaml"
    file.write_text(json.dumps({"MODEL": {"BACKBONE": {"NAME": "build_swin_backbone", "FREEZE_AT": 0}, "SWIN": swin}}))
    return load_config(file)


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (7, 5)])
def test_any_image_size(size):
    model = Swin(**SMALL).eval()
    features = model(torch.randn(2, 3, *size))
    for name, shape in model.output_shape().items():
        expected = tuple(-(-side // shape.stride) for side in size)
        assert features[name].shape == (2, shape.channels, *expected)
    assert model.size_divisibility == 32


def test_config_builds_it_and_every_key_arrives(tmp_path, recwarn):
    cfg = config(tmp_path, EMBED_DIM=16, DEPTHS=[2, 2, 3, 2], NUM_HEADS=[1, 2, 4, 8], WINDOW_SIZE=4, PATCH_SIZE=2,
                 APE=True, PRETRAIN_IMG_SIZE=64, PATCH_NORM=False, DROP_PATH_RATE=0.8, QKV_BIAS=False, MLP_RATIO=2.0,
                 OUT_FEATURES=["res5", "res3"])  # fmt: skip
    model = build_backbone(cfg)
    assert not recwarn.list
    assert model.absolute_pos_embed.shape == (1, 16, 32, 32)
    assert model.patch_embed.norm is None
    assert model.layers[0].blocks[0].attn.qkv.bias is None
    assert model.layers[0].blocks[0].mlp.fc1.out_features == 32
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx([0.1 * index for index in range(9)])
    features = model(torch.randn(1, 3, 40, 56))
    assert {name: tuple(f.shape) for name, f in features.items()} == {"res3": (1, 32, 10, 14), "res5": (1, 128, 3, 4)}
    assert {n: (s.channels, s.stride) for n, s in model.output_shape().items()} == {"res3": (32, 4), "res5": (128, 16)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": (1,)}, "one head count per stage"),
        ({"out_features": ("res9",)}, "res9"),
        ({"freeze_at": 4}, "at most 3 stages"),
    ],
)
def test_options_that_do_not_fit_the_stages_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Swin(**{**SMALL, **options})


@pytest.mark.parametrize(
    ("freeze_at", "frozen"),
    [
        (0, set()),
        (1, {"absolute_pos_embed", "patch_embed"}),
        (2, {"absolute_pos_embed", "patch_embed", "layers.0"}),
        (3, {"absolute_pos_embed", "patch_embed", "layers.0", "layers.1"}),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_freeze_at_counts_like_detectron2(freeze_at, frozen, device):
    with torch.device(device):
        model = Swin(**SMALL, ape=True, pretrain_img_size=32, freeze_at=freeze_at)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(tuple(frozen)), name


def test_it_is_built_on_the_default_device():
    with torch.device("meta"):
        model = Swin(**SMALL, drop_path_rate=0.5)
        assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert {tensor.device.type for tensor in Swin(**SMALL).state_dict().values()} == {"cpu"}


@pytest.mark.parametrize("freeze_at", [0, 1])
def test_activation_checkpointing_has_the_same_gradients(freeze_at):
    plain = Swin(**SMALL, drop_path_rate=0.0, freeze_at=freeze_at)
    saving = Swin(**SMALL, drop_path_rate=0.0, freeze_at=freeze_at, use_checkpoint=True)
    saving.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 32, 40)
    # A copy recomputes its own blocks, not those it was copied from.
    models = (plain, copy.deepcopy(saving))
    for model in models:
        model.train()(image)["res3"].square().sum().backward()
    without = ("norm0", "patch_embed")[: 1 + freeze_at]
    for (name, left), right in zip(plain.named_parameters(), models[1].parameters()):
        assert (left.grad is None) == (right.grad is None) == name.startswith(without), name
        if left.grad is not None:
            torch.testing.assert_close(left.grad, right.grad)
    assert all(parameter.grad is None for parameter in saving.parameters())


def test_imagenet_checkpoint_names():
    """Microsoft's ImageNet files have no per-stage norms: these are the only names missing."""
    model = Swin(**SMALL)
    official = {name: value for name, value in model.state_dict().items() if not name.startswith("norm")}
    official["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    official |= {name: torch.zeros(16) for name in ("norm.weight", "norm.bias", "head.weight", "head.bias")}
    missing = load_strictly(
        model, key_map("imagenet_backbone").convert(official), "an ImageNet file", may_lack=("norm",)
    )
    assert sorted(missing) == ["norm0.bias", "norm0.weight", "norm1.bias", "norm1.weight"]


def test_released_names_and_shapes(golden_dir):
    released = json.loads((golden_dir / "ovseg" / "checkpoint_keys.json").read_text())
    keys = next(record["keys"] for name, record in released.items() if "swinbase" in name)
    official = {
        name.removeprefix("backbone."): torch.Size(shape[:-1])
        for name, shape in keys.items()
        if name.startswith("backbone.")
    }
    with torch.device("meta"):
        model = Swin(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), window_size=12)
    assert differences(model.state_dict(), key_map("swin").convert(official)) == []


def test_agrees_with_the_recording(golden_dir):
    result = run_case(golden_dir / "ovseg" / "swin_backbone.json")
    assert result.status == "pass", result.detail
