"""Runs recorded cases of OVSeg's two backbones."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.projects.deeplab import add_deeplab_config, build_resnet_deeplab_backbone
from torch import Tensor, nn

from golden.case import GoldenCase, golden_case
from maft.backbones import Swin
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import key_map


def build_swin(options: dict[str, Any]) -> Swin:
    """Our backbone from the official dotted options ("MODEL.SWIN.EMBED_DIM", ...); absent ones keep their default."""
    prefix = "MODEL.SWIN."
    return Swin(**{key.removeprefix(prefix).lower(): options[key] for key in options if key.startswith(prefix)})


def build_resnet(options: dict[str, Any]) -> nn.Module:
    """Detectron2's DeepLab ResNet from the official dotted options."""
    cfg: CfgNode = get_cfg()
    add_deeplab_config(cfg)
    known = {key: value for key, value in options.items() if key.startswith(("MODEL.RESNETS.", "MODEL.BACKBONE."))}
    cfg.merge_from_list([item for pair in known.items() for item in pair])
    return build_resnet_deeplab_backbone(cfg, ShapeSpec(channels=3))


@golden_case("ovseg", "swin_backbone")
def swin_backbone(case: GoldenCase) -> dict[str, Tensor]:
    model = build_swin(case.config["opts"]).to(case.device)
    load_strictly(model, key_map("swin").convert(case.weights), case.name)
    return _feature_maps(case, model)


@golden_case("ovseg", "r101c_backbone")
def r101c_backbone(case: GoldenCase) -> dict[str, Tensor]:
    model = build_resnet(case.config["opts"]).to(case.device)
    load_strictly(model, key_map("resnet").convert(case.weights), case.name)
    return _feature_maps(case, model)


@torch.no_grad()
def _feature_maps(case: GoldenCase, model: nn.Module) -> dict[str, Tensor]:
    features = {name: model.eval()(image) for name, image in case.inputs.items()}
    return {f"{name}/{level}": value for name, maps in features.items() for level, value in maps.items()}
