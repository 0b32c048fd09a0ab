"""Small random copies of towers, of the same classes, to prove every kind of tower without its memory and weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import timm
from timm.layers import HybridEmbed
from timm.models.vision_transformer_hybrid import ConvStem
from timm.models.vitamin import VitCfg
from torch import nn

WIDTH, DEPTH, HEADS = 64, 3, 4
_CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "convnext": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "fastvit": {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 32, 64)},
    "swin": {"depths": (2, 2, 2, 2), "embed_dim": 16, "num_heads": (2, 2, 4, 4)},
}
_FIVE_STAGES = {"layers": (1, 1, 1, 1, 1), "embed_dims": (8, 16, 32, 32, 64)}


@contextmanager
def shrunk_image(vision: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The ``vision_cfg`` of a small tower of the same classes, which is built while the context is open.

    Depths, widths and heads are small; patch and image size, kind of pool, norms and position embeddings stay.
    """
    if "timm_model_name" in vision:
        with patch.object(timm, "create_model", partial(_create_small, timm.create_model)):
            yield {**vision, "timm_model_pretrained": False}
        return
    small = {**vision, "width": WIDTH, "head_width": WIDTH // HEADS, "mlp_ratio": 2.0, "layers": DEPTH}
    if isinstance(vision["layers"], list):
        small |= {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
    if "attn_pooler_heads" in vision:
        small["attn_pooler_heads"] = HEADS
    yield small


def _create_small(create: Any, name: str, **arguments: Any) -> Any:
    family = name.split("_")[0]
    if family in _CONVOLUTIONS:
        stages = _FIVE_STAGES if name in ("fastvit_mci3", "fastvit_mci4") else _CONVOLUTIONS[family]
        return create(name, **stages, **arguments)
    small: dict[str, Any] = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_ratio": 2.0}
    if family == "vitamin":
        small["embed_cfg"] = VitCfg(embed_dim=(8, 16, WIDTH), depths=(1, 2, 1), stem_width=8)
    if family == "vit" and "mci" in name:
        stem = ConvStem(channels=(16, 16, WIDTH), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=nn.GELU)
        small["embed_layer"] = partial(HybridEmbed, backbone=stem, proj=False)
    return create(name, **small, **arguments)
