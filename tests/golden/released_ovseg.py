"""Names and shapes of every released OVSeg file against our full-size models, both ways, without any memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from golden.case import GoldenCase, golden_case, released_shapes
from golden.ovseg_backbones import build_resnet
from maft.backbones import Swin
from maft.checkpoint.key_map import differences
from maft.checkpoint.official.released import convert_released, key_map, recognise
from maft.classifiers.masked_crops import MaskedCrops
from maft.clip import VocabularyEncoder, load_clip
from maft.interfaces import BuildContext
from maft.registry import PROPOSERS

_TOWER = "clip_adapter.clip_model.visual."
_CLIP_OF_WIDTH = {768: "ViT-B-16", 1024: "ViT-L-14"}


def full_size_ovseg(backbone: str, prompt_depth: int = 3, clip_name: str = "") -> nn.ModuleDict:
    """OVSeg's parts under our model's names: "swin" (Swin-B, ViT-L/14) or "resnet" (R-101c, ViT-B/16)."""
    clip = load_clip(clip_name or ("ViT-L-14" if backbone == "swin" else "ViT-B-16"), "openai", device="meta")
    # The number of classes is in no name or shape that our model has.
    context = BuildContext(clip, 1, _swin_b if backbone == "swin" else _r101c)
    return nn.ModuleDict(
        {
            "clip": clip,
            "vocabulary_encoder": VocabularyEncoder(clip.embed_dim, clip.text_width),
            "proposer": PROPOSERS.build("MaskFormer", {}, context),
            "classifier": MaskedCrops.from_options(context, mask_prompt_depth=prompt_depth),
        }
    )


def _swin_b() -> nn.Module:
    return Swin(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), window_size=12)


# DeepLab's ResNet-101, that of OVSeg, ZSSeg and FreeSeg.
R101C = {
    "DEPTH": 101,
    "STEM_TYPE": "deeplab",
    "STEM_OUT_CHANNELS": 128,
    "STRIDE_IN_1X1": False,
    "RES5_MULTI_GRID": [1, 2, 4],
    "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
}


def _r101c() -> nn.Module:
    return build_resnet({f"MODEL.RESNETS.{name}": value for name, value in R101C.items()})


@golden_case("ovseg", "checkpoint_keys")
def ovseg_checkpoint_keys(case: GoldenCase) -> dict[str, Tensor]:
    outputs = {}
    with torch.device("meta"):
        for file, official in released_shapes(case):
            if any(name.startswith("sem_seg_head.") for name in official):
                release = recognise(official)
                assert release == "OVSeg", f"{file} was recognised as {release}"
                ours: nn.Module = full_size_ovseg(
                    "swin" if "backbone.norm0.weight" in official else "resnet",
                    official[_TOWER + "mask_embedding"][0],
                    _clip_name(official, _TOWER, file),
                )
                converted = convert_released(official, release, file)
            else:
                official = {name.removeprefix("module."): shape for name, shape in official.items()}
                ours = load_clip(_clip_name(official, "visual.", file), "openai", device="meta")
                converted = key_map("clip").convert(official, file)
            problems = differences(ours.state_dict(), converted)
            assert not problems, f"{file}: {problems[:4]}"
            outputs[file] = torch.ones((), device="cpu")
    return outputs


def _clip_name(official: dict[str, torch.Size], prefix: str, file: str) -> str:
    """OpenAI's CLIP of the recorded width."""
    name = f"{prefix}class_embedding"
    if name not in official or official[name][0] not in _CLIP_OF_WIDTH:
        raise AssertionError(f"{file} is no released file known here: no CLIP of OVSeg's has its {name}")
    return _CLIP_OF_WIDTH[official[name][0]]
