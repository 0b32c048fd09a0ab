"""Runs recorded cases of the official Swin backbone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from maft.backbones.swin import SwinTransformer
from maft.checkpoint.key_map import KeyMap, load_strictly
from maft.checkpoint.official.swin import RULES
from maft.golden.case import GoldenCase, golden_case


def build_swin(options: dict[str, Any]) -> SwinTransformer:
    """Our backbone from the official dotted options ("MODEL.SWIN.EMBED_DIM", ...); absent ones keep their default."""
    swin = {key.removeprefix("MODEL.SWIN."): value for key, value in options.items() if key.startswith("MODEL.SWIN.")}
    names = {
        "EMBED_DIM": "embed_dim",
        "DEPTHS": "depths",
        "NUM_HEADS": "num_heads",
        "WINDOW_SIZE": "window_size",
        "PATCH_SIZE": "patch_size",
        "MLP_RATIO": "mlp_ratio",
        "QKV_BIAS": "qkv_bias",
        "PATCH_NORM": "patch_norm",
        "DROP_PATH_RATE": "drop_path_rate",
        "OUT_FEATURES": "out_features",
    }
    position = swin.get("PRETRAIN_IMG_SIZE", 224) if swin.get("APE", False) else 0
    chosen = {ours: swin[official] for official, ours in names.items() if official in swin}
    return SwinTransformer(absolute_position_size=position, **chosen)


@golden_case("ovseg", "swin_backbone")
def swin_backbone(case: GoldenCase) -> dict[str, Tensor]:
    model = build_swin(case.config["opts"]).to(case.device).eval()
    load_strictly(model, KeyMap(RULES).convert(case.weights, case.name), case.name)
    features = {name: model(image) for name, image in case.inputs.items()}
    return {f"{name}/{level}": value for name, maps in features.items() for level, value in maps.items()}
