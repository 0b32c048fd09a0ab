"""Our full-size models, without memory, against names and shapes in every released MAFT and Mask-Adapter file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from golden.case import GoldenCase, golden_case, released_shapes
from maft.checkpoint.key_map import KeyMap, Rule, differences
from maft.checkpoint.official.released import convert_released, key_map, recognise
from maft.clip import VocabularyEncoder, load_clip
from maft.config_keys import add_maft_config
from maft.ensembles import ClassifierAlone
from maft.interfaces import BuildContext
from maft.registry import CLASSIFIERS, PROPOSERS
from maft.segmentor import OpenVocabSegmentor

Options = Mapping[str, Any]
# A model, and for files of single towers the rules of their names; segmentation checkpoints are recognised.
Built = tuple[nn.Module, tuple[Rule, ...] | None]

_R101 = {
    "MODEL.BACKBONE.NAME": "build_resnet_deeplab_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.DEPTH": 101,
    "MODEL.RESNETS.STEM_TYPE": "deeplab",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 128,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.RESNETS.RES5_DILATION": 1,
}
_ON_CLIP = {"BACKBONE": "clip", "CLASS_HEAD": "pooled"}
_TRANSFER = {"TEXT_TRANSFER": "post_norm"}


def _backbone(options: Options) -> nn.Module:
    cfg: CfgNode = get_cfg()
    add_maft_config(cfg)
    cfg.merge_from_list([item for pair in options.items() for item in pair])
    return build_backbone(cfg)


def _model(
    clip_name: str,
    proposer: tuple[str, Options],
    classifier: tuple[str, Options] | None = None,
    backbone: Options | None = None,
) -> Built:
    clip = load_clip(clip_name, "random")
    context = BuildContext(clip, 1, lambda: _backbone(backbone or {}))
    model = OpenVocabSegmentor(
        clip=clip,
        vocabulary_encoder=VocabularyEncoder(clip.embed_dim, clip.text_width),
        proposer=PROPOSERS.build(*proposer, context),
        classifier=None if classifier is None else CLASSIFIERS.build(*classifier, context),
        ensemble=ClassifierAlone(),
        losses={},
        inference={},
    )
    return model, None


def _freeseg(clip_name: str, classifier: tuple[str, Options] | None = None) -> Built:
    # The releases are one layer deeper than the paper.
    return _model(clip_name, ("FreeSeg", {"DECODER_LAYERS": 10}), classifier, _R101)


def _fcclip(clip_name: str) -> Built:
    return _model(clip_name, ("Mask2Former", {**_ON_CLIP, "NUM_QUERIES": 250}), ("MaskPooling", {}))


def _maft_plus(clip_name: str) -> Built:
    return _model(clip_name, ("Mask2Former", _ON_CLIP), ("MAFTPlus", _TRANSFER))


def _mask_adapter(clip_name: str, queries: int, options: Options) -> Built:
    return _model(clip_name, ("Mask2Former", {**_ON_CLIP, "NUM_QUERIES": queries}), ("MaskAdapter", options))


def _warm_up(clip_name: str, options: Options) -> Built:
    return _model(clip_name, ("GroundTruth", {}), ("MaskAdapter", options))


def _clip(clip_name: str) -> Built:
    return load_clip(clip_name, "random"), key_map("clip").rules


_LARGE, _BASE = "convnext_large_d_320", "convnext_base_w_320"
RELEASED: dict[str, dict[str, Callable[[], Built]]] = {
    "maft": {
        "freeseg_model.pt": lambda: _freeseg("ViT-B-16"),
        "MAFT_Vitb.pt": lambda: _freeseg("ViT-B-16", ("IPCLIP", {})),
        "MAFT_Vitl.pt": lambda: _freeseg("ViT-L-14", ("IPCLIP", {})),
        "ViT-B-16.pt": lambda: _clip("ViT-B-16"),
        "ViT-L-14.pt": lambda: _clip("ViT-L-14"),
        "R-103.pkl": lambda: (_backbone(_R101), key_map("resnet").rules),
    },
    "maskadapter": {
        "fcclip_cocopan.pth": lambda: _fcclip(_LARGE),
        "fcclip_cocopan_r50.pth": lambda: _fcclip("RN50"),
        "fcclip_cocopan_r101.pth": lambda: _fcclip("RN101"),
        "fcclip_cocopan_r50x4.pth": lambda: _fcclip("RN50x4"),
        "fcclip_cocopan_r50x16.pth": lambda: _fcclip("RN50x16"),
        "fcclip_cocopan_r50x64.pth": lambda: _fcclip("RN50x64"),
        "maftp_l.pth": lambda: _maft_plus(_LARGE),
        "maftp_b.pth": lambda: _maft_plus(_BASE),
        "maftp_l_pano.pth": lambda: _maft_plus(_LARGE),
        "fcclip_convnext_large_maskadapter.pth": lambda: _mask_adapter(_LARGE, 250, {}),
        "maftp_convnext_base_maskadapter.pth": lambda: _mask_adapter(_BASE, 100, _TRANSFER),
        "maftp_convnext_large_maskadapter.pth": lambda: _mask_adapter(_LARGE, 100, _TRANSFER),
        "first-phase/fcclip-l-adapter/model_final.pth": lambda: _warm_up(_LARGE, {}),
        "first-phase/maft_b_adapter/model_final.pth": lambda: _warm_up(_BASE, _TRANSFER),
        "first-phase/maft_l_adapter/model_final.pth": lambda: _warm_up(_LARGE, _TRANSFER),
    },
}


def misfits(build: Callable[[], Built], official: Mapping[str, torch.Size], file: str) -> list[str]:
    """Names and shapes that a released file and our model do not share, one line each."""
    with torch.device("meta"):
        model, rules = build()
    if rules is not None:
        state = KeyMap(rules).convert(official, file)
    else:
        release = recognise(official)
        if release is None:
            return [f"{file} is not recognised as a release"]
        state = convert_released(official, release, file)
    return differences(model.state_dict(), state)


@golden_case("maft", "checkpoint_keys")
@golden_case("maskadapter", "checkpoint_keys")
def checkpoint_keys(case: GoldenCase) -> dict[str, Tensor]:
    fits: dict[str, Tensor] = {}
    problems: list[str] = []
    for file, names in released_shapes(case):
        if file not in RELEASED[case.system]:
            problems.append(f"{file} is no released file known here; known are: {', '.join(RELEASED[case.system])}")
            continue
        found = misfits(RELEASED[case.system][file], names, file)
        fits[file] = torch.tensor(float(not found))
        problems += [f"{file}: {line}" for line in found[:3]]
    if problems:
        raise AssertionError("; ".join(problems))
    return fits
