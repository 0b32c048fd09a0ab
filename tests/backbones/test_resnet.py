import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from detectron2.projects.deeplab import add_deeplab_config

import maft.backbones  # noqa: F401 - registers
from maft.errors import UserError


def config(name, **options):
    cfg = get_cfg()
    add_deeplab_config(cfg)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = name, 0
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    for key, value in options.items():
        cfg.MODEL.RESNETS[key] = value
    return cfg


@pytest.mark.parametrize("stem", ["basic", "deeplab"])
def test_narrow_resnet_has_the_usual_strides(stem):
    options = {"DEPTH": 18, "STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 12, "NORM": "BN", "STEM_TYPE": stem}
    model = build_backbone(config("build_basic_resnet_backbone", **options))
    features = model(torch.randn(1, 3, 96, 96))
    assert {name: tuple(f.shape[1:]) for name, f in features.items()} == {
        "res2": (12, 24, 24),
        "res3": (24, 12, 12),
        "res4": (48, 6, 6),
        "res5": (96, 3, 3),
    }
    assert {n: (s.channels, s.stride) for n, s in model.output_shape().items()} == {
        "res2": (12, 4),
        "res3": (24, 8),
        "res4": (48, 16),
        "res5": (96, 32),
    }
    assert all(p.requires_grad for p in model.parameters())


def test_deeplab_resnet_101_dilates_the_blocks_of_its_last_stage():
    with torch.device("meta"):
        model = build_backbone(config("build_resnet_deeplab_backbone", DEPTH=101, STRIDE_IN_1X1=False))
    assert [block.conv2.dilation for block in model.res5] == [(1, 1), (2, 2), (4, 4)]
    assert model.res5[0].conv2.stride == (2, 2) and len(model.res4) == 23


def test_says_which_option_is_wrong():
    with pytest.raises(UserError, match="DEPTH 50"):
        build_backbone(config("build_basic_resnet_backbone", DEPTH=50))
    with pytest.raises(UserError, match="STEM_TYPE 'patch'"):
        build_backbone(config("build_basic_resnet_backbone", DEPTH=18, STEM_TYPE="patch"))
