"""From a config and its weights to the model: what training, evaluation and prediction all begin with."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

import maft.region_clip
import maft.segmentor  # noqa: F401 - both register their meta-architecture
from maft.checkpoint.loading import Weights
from maft.errors import UserError


def model_shapes(cfg: CfgNode) -> dict[str, torch.Size]:
    """Names and shapes of everything a checkpoint of the model holds; the model is built without memory.

    Raises:
        UserError: see `build_model`.
    """
    with torch.device("meta"):
        model = _architecture(cfg)(cfg)
    return {name: value.shape for name, value in model.state_dict().items()}


def build_model(cfg: CfgNode, weights: Sequence[Weights] = ()) -> nn.Module:
    """The model of ``MODEL.META_ARCHITECTURE`` on ``MODEL.DEVICE``, with ``weights`` in it.

    A CLIP among the weights is what the model is built around, so that no other one is downloaded first and copies of
    its tower (IP-CLIP) start from it.

    Raises:
        UserError: the architecture or the device is unknown, a component cannot be built, or the weights do not fit.
    """
    architecture = _architecture(cfg)
    options: dict[str, Any] = {}
    clip = next((inner for inner in (part.clip() for part in weights) if inner), None)
    if clip and "clip_weights" in inspect.signature(getattr(architecture, "from_config", architecture)).parameters:
        options["clip_weights"] = clip
    model = architecture(cfg, **options).to(_device(cfg.MODEL.DEVICE))
    for part in weights:
        part.load_into(model)
    return model


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f"MODEL.DEVICE is {name!r}: use cuda or cpu.") from error


def _architecture(cfg: CfgNode) -> Any:
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY:
        raise UserError(f"Unknown MODEL.META_ARCHITECTURE {name!r}; use OpenVocabSegmentor or RegionCLIP.")
    return META_ARCH_REGISTRY.get(name)
