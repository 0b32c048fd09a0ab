"""How a mistake in a config or an override is explained: in one sentence that names the key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, get_cfg

from maft.errors import UserError, closest, shown

# Detectron2's keys that change results there and that nothing here reads -> what to do instead.
_IGNORED = {
    **dict.fromkeys(("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"), "proposers and CLIP bring their own normalisation"),
    "MODEL.KEYPOINT_ON": "there are no keypoints",
    "MODEL.LOAD_PROPOSALS": "use the proposer MaskFiles",
    "MODEL.SEM_SEG_HEAD": "the proposer's own options stand under MODEL.PROPOSER",
    "MODEL.PANOPTIC_FPN": "MODEL.INFERENCE says how segments are joined",
    **{
        f"MODEL.{part}": "there are no box detectors here"
        for part in (
            "PROPOSAL_GENERATOR", "ANCHOR_GENERATOR", "RPN", "ROI_HEADS", "ROI_BOX_HEAD", "ROI_BOX_CASCADE_HEAD",
            "ROI_MASK_HEAD", "ROI_KEYPOINT_HEAD", "RETINANET",
        )
    },
    "INPUT.MASK_FORMAT": "masks are always bitmaps",
    "DATASETS.PROPOSAL_FILES_TRAIN": "use the proposer MaskFiles",
    "DATASETS.PROPOSAL_FILES_TEST": "use the proposer MaskFiles",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": "use the proposer MaskFiles",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": "use the proposer MaskFiles",
    **dict.fromkeys(("DATALOADER.REPEAT_THRESHOLD", "DATALOADER.REPEAT_SQRT"), "every image is drawn equally often"),
    "SOLVER.REFERENCE_WORLD_SIZE": "IMS_PER_BATCH is the global batch, set it and BASE_LR",
    "TEST.PRECISE_BN": "choose a frozen or synchronised norm",
    "TEST.DETECTIONS_PER_IMAGE": "use MODEL.INFERENCE.MAX_INSTANCES",
    "TEST.EXPECTED_RESULTS": "use TEST.EXPECTED",
    "TEST.KEYPOINT_OKS_SIGMAS": "there are no keypoints",
    "GLOBAL.HACK": "leave it out",
    "VIS_PERIOD": "use SOLVER.PICTURE_PERIOD",
}  # fmt: skip

# yacs shows both classes by their full names, and all lines of a group of keys.
_MISMATCH = re.compile(
    r"Type mismatch \(<class '(?:\w+\.)*(?P<expected>\w+)'> vs. <class '(?:\w+\.)*(?P<given>\w+)'>\) "
    r"with values \(.* vs. (?P<value>.*)\) for config key: (?P<key>[\w.]+)",
    re.DOTALL,
)


_TYPES = {
    "int": "a whole number", "float": "a number", "bool": "True or False", "str": "a text", "list": "a list",
    "tuple": "a list",
}  # fmt: skip
_UNKNOWN = re.compile(r"Non-existent config key: (?P<key>.*)", re.DOTALL)


def check_not_ignored(cfg: CfgNode) -> None:
    """Raises UserError when a key of Detectron2 is set that has no effect here."""
    defaults = get_cfg()
    for key, advice in _IGNORED.items():
        given, default = cfg, defaults
        for part in key.split("."):
            given, default = given[part], default[part]
        if _plain(given) != _plain(default):
            key, given = _first_difference(key, given, default)
            raise UserError(f"{key} is {shown(given)}, but this key of Detectron2 has no effect here: {advice}.")


def _plain(value: Any) -> Any:
    """Tuples as the lists that a dumped config has for them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _first_difference(key: str, given: Any, default: Any) -> tuple[str, Any]:
    if isinstance(given, CfgNode) and isinstance(default, CfgNode):
        name = next(name for name in given if _plain(given[name]) != _plain(default[name]))
        return _first_difference(f"{key}.{name}", given[name], default[name])
    return key, given


# Keys of earlier versions -> what to write instead.
_REMOVED = {
    "MODEL.BACKBONE.WEIGHTS": "MODEL.START_FROM [{FILE: ..., INTO: proposer.backbone}]",
    "MODEL.PROPOSER.WEIGHTS": "MODEL.START_FROM [{FILE: ..., TAKE: proposer}]",
    "MODEL.CLASSIFIER.WEIGHTS": "MODEL.START_FROM [{FILE: ..., TAKE: classifier}]",
    "MODEL.WEIGHTS_MAY_LACK": "MODEL.START_FROM [{FILE: ..., MAY_LACK: [...]}]",
    "MODEL.WEIGHTS_LEAVE_OUT": "MODEL.START_FROM [{FILE: ..., TAKE: [...]}]",
    "MODEL.REGION_CLIP.MASK_PROMPTS": "MODEL.START_FROM [{FILE: ..., TAKE: mask_prompts}]",
}


def refuse_removed(key: str) -> None:
    """Raises UserError when a key is one of an earlier version."""
    if key in _REMOVED:
        raise UserError(f"{key} is gone: write {_REMOVED[key]}.")


def keys_of(node: CfgNode, prefix: str = "") -> list[str]:
    """All keys of a config with their groups, such as ``SOLVER.BASE_LR``."""
    keys = []
    for name, value in node.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, CfgNode):
            keys += keys_of(value, f"{prefix}{name}.")
    return keys


def one_sentence(error: Exception, defaults: CfgNode) -> str:
    """What an exception of yacs, Detectron2 or the YAML parser says, without its further lines.

    Args:
        defaults: a config with all keys, from which the one most like a misspelt one is suggested.
    """
    text = str(error).strip("'\"").strip()
    if (unknown := _UNKNOWN.fullmatch(text)) is not None:
        key = unknown["key"]
        refuse_removed(key)
        return f"there is no key {key if key.isprintable() else shown(key)}.{closest(key, keys_of(defaults))}"
    if (mismatch := _MISMATCH.fullmatch(text)) is not None:
        expected, given, key = mismatch["expected"], mismatch["given"], mismatch["key"]
        if expected == "CfgNode":
            return f"{key} is a group of keys and cannot be set to a {given}: set one of its keys."
        return f"{key} takes {_TYPES.get(expected, expected)}, not the {given} {shown(mismatch['value'])}."
    return text.splitlines()[0].rstrip(".") + "." if text else f"{type(error).__name__}."
