"""Backbones for Detectron2's registry. Importing the package registers them."""

from typing import Any

# Registers build_resnet_deeplab_backbone (three-convolution stem, multi-grid res5), which FreeSeg and MAFT use.
import detectron2.projects.deeplab.resnet as deeplab
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

from maft.errors import UserError

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


@BACKBONE_REGISTRY.register()
def build_basic_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """ResNet-18 or -34 of any width; Detectron2's own builders fix theirs at 64 channels.

    Reads MODEL.RESNETS.DEPTH, STEM_TYPE ("basic" or "deeplab"), STEM_OUT_CHANNELS, RES2_OUT_CHANNELS (doubled from
    stage to stage), NORM, OUT_FEATURES and MODEL.BACKBONE.FREEZE_AT; strides are 4, 8, 16 and 32.

    Raises:
        UserError: another depth or stem.
    """
    options = cfg.MODEL.RESNETS
    if options.DEPTH not in _BLOCKS:
        raise UserError(
            f"MODEL.RESNETS.DEPTH {options.DEPTH} is not built from basic blocks: choose 18 or 34, or set "
            "MODEL.BACKBONE.NAME to build_resnet_deeplab_backbone."
        )
    stems = {"basic": BasicStem, "deeplab": deeplab.DeepLabStem}
    stem_type = options.get("STEM_TYPE", "basic")
    if stem_type not in stems:
        raise UserError(f"MODEL.RESNETS.STEM_TYPE {stem_type!r} is unknown: choose 'basic' or 'deeplab'.")
    stem = stems[stem_type](input_shape.channels, options.STEM_OUT_CHANNELS, options.NORM)
    stages, channels = [], options.STEM_OUT_CHANNELS
    for stage, blocks in enumerate(_BLOCKS[options.DEPTH]):
        width = options.RES2_OUT_CHANNELS * 2**stage
        strides = [1 if stage == 0 else 2] + [1] * (blocks - 1)
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                blocks,
                stride_per_block=strides,
                in_channels=channels,
                out_channels=width,
                norm=options.NORM,
            )
        )
        channels = width
    return ResNet(stem, stages, out_features=options.OUT_FEATURES).freeze(cfg.MODEL.BACKBONE.FREEZE_AT)


def backbone_from_config(cfg: CfgNode) -> Any:
    """The Detectron2 backbone that ``MODEL.BACKBONE.NAME`` names.

    Raises:
        UserError: there is none of that name.
    """
    name = cfg.MODEL.BACKBONE.NAME
    if name not in BACKBONE_REGISTRY:
        known = ", ".join(known for known, _ in BACKBONE_REGISTRY)
        raise UserError(f"Unknown backbone {name!r} in MODEL.BACKBONE.NAME; the known ones are: {known}.")
    return build_backbone(cfg)
