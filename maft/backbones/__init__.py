"""Backbones for Detectron2's registry. Importing the package registers them."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone

from maft.backbones import resnet, swin  # noqa: F401
from maft.errors import UserError


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
