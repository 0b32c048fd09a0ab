"""Backbones for Detectron2's registry. Importing the package registers them."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

# Registers build_resnet_deeplab_backbone (three-convolution stem, multi-grid res5), which FreeSeg and MAFT use.
import detectron2.projects.deeplab.resnet as deeplab
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from detectron2.modeling.backbone.swin import SwinTransformer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from maft.errors import UserError, first_line
from maft.layers.folding import fold_normalisations

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
        sizes = {"in_channels": channels, "out_channels": width, "norm": options.NORM}
        stages.append(ResNet.make_stage(BasicBlock, blocks, stride_per_block=strides, **sizes))
        channels = width
    return ResNet(stem, stages, out_features=options.OUT_FEATURES).freeze(cfg.MODEL.BACKBONE.FREEZE_AT)


class Swin(SwinTransformer):
    """Detectron2's Swin Transformer (any image size) under the names our decoders ask for: "res2" to "res5".

    Args:
        depths, num_heads: blocks and attention heads of each stage.
        out_features: which stages are returned, each normalised.
        freeze_at: Detectron2's count of frozen stages: 1 freezes the patch embedding, 2 the first stage as well, ...
        use_checkpoint: recompute the blocks in the backward pass to save memory.
        options: Detectron2's, such as ``embed_dim`` and ``window_size``.

    Raises:
        UserError: the numbers of depths and heads differ, or there are no such features or stages to freeze.
    """

    # Detectron2's property reads an attribute that its constructor misspells.
    size_divisibility = 32

    def __init__(
        self,
        *,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        patch_size: int = 4,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        freeze_at: int = 0,
        use_checkpoint: bool = False,
        **options: Any,
    ) -> None:
        names = [f"res{stage + 2}" for stage in range(len(depths))]
        if len(num_heads) != len(depths) or not set(out_features) <= set(names) or freeze_at > len(depths) + 1:
            raise UserError(
                f"MODEL.SWIN has {len(depths)} DEPTHS, {len(num_heads)} NUM_HEADS and OUT_FEATURES "
                f"{list(out_features)}, and MODEL.BACKBONE.FREEZE_AT is {freeze_at}: give one head count per stage, "
                f"features among {names} and at most {len(depths) + 1} stages to freeze."
            )
        # Drop path's rates are read from a tensor, which has no values on the meta device. The warnings are about how
        # Detectron2 calls torch.meshgrid and imports timm.
        with torch.device("cpu"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().__init__(
                depths=depths,
                num_heads=num_heads,
                patch_size=patch_size,
                out_indices=[stage for stage, name in enumerate(names) if name in out_features],
                frozen_stages=freeze_at or -1,
                **options,
            )
        self.to(torch.empty(0).device)
        self._out_features = [names[stage] for stage in self.out_indices]
        self._out_feature_channels = dict(zip(names, self.num_features))
        self._out_feature_strides = {name: patch_size * 2**stage for stage, name in enumerate(names)}
        if use_checkpoint:
            # Detectron2's own kind gives the stage after a frozen patch embedding no gradients.
            for block in (block for stage in self.layers for block in stage.blocks):
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Normalised image (B, 3, H, W) of any size -> feature maps (B, C * 2**i, ceil(H / s), ceil(W / s))."""
        return dict(zip(self._out_features, super().forward(image).values()))


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Swin:
    """`Swin` from ``MODEL.SWIN`` and ``MODEL.BACKBONE.FREEZE_AT``, for ``MODEL.BACKBONE.NAME``."""
    options = {name.lower(): value for name, value in cfg.MODEL.SWIN.items()}
    return Swin(freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT, **options)


def backbone_from_config(cfg: CfgNode) -> Any:
    """The Detectron2 backbone that ``MODEL.BACKBONE.NAME`` names.

    Raises:
        UserError: there is none of that name, or its options do not go together.
    """
    name = cfg.MODEL.BACKBONE.NAME
    if name not in BACKBONE_REGISTRY:
        known = ", ".join(known for known, _ in BACKBONE_REGISTRY)
        raise UserError(f"Unknown backbone {name!r} in MODEL.BACKBONE.NAME; the known ones are: {known}.")
    try:
        return fold_normalisations(build_backbone(cfg))
    except (AssertionError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"MODEL.BACKBONE.NAME {name} cannot be built ({type(error).__name__}: {first_line(error)})."
        ) from error
