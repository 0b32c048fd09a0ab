"""How a mistake in a config or an override is explained: in one sentence that names the key."""

from __future__ import annotations

import re
from typing import Any

from detectron2.config import CfgNode, get_cfg

from maft.errors import UserError, closest

_AT_LEAST = {
    "SOLVER.MAX_ITER": 1,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.ACCUMULATE": 1,
    "SOLVER.LOG_PERIOD": 1,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.CHECKPOINT_PERIOD": 0,
    "SOLVER.KEEP_CHECKPOINTS": 0,
    "SOLVER.PICTURE_PERIOD": 0,
    "TEST.EVAL_PERIOD": 0,
    "TEST.VISUALIZE": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.PADDED_SIZE": 0,
}
_PAIRS = ("SOLVER.LR_MULTIPLIERS", "SOLVER.WEIGHT_DECAY_OVERRIDES")


def check_options(cfg: CfgNode) -> None:
    """Checks iterations, periods, sizes and lists of pairs.

    Raises:
        UserError: one of them cannot be meant.
    """
    for key, least in _AT_LEAST.items():
        if (value := _value(cfg, key)) < least:
            raise UserError(f"{key} is {value}: it must be at least {least}.")
    for key in _PAIRS:
        for entry in _value(cfg, key):
            if not _is_name_and_number(entry):
                raise UserError(f"{key} holds {entry!r}: each entry is [part of a parameter name, number].")
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if not sizes or min(sizes) < 1:
        raise UserError(f"INPUT.MIN_SIZE_TRAIN is {list(sizes)}: list one or more lengths in pixels.")


def _value(cfg: CfgNode, key: str) -> Any:
    node = cfg
    for part in key.split("."):
        node = node[part]
    return node


def _is_name_and_number(entry: Any) -> bool:
    if not isinstance(entry, (list, tuple)) or len(entry) != 2:
        return False
    return isinstance(entry[0], str) and isinstance(entry[1], (int, float))


# Detectron2's keys that change results there and that nothing here reads -> what to do instead.
_IGNORED = {
    "MODEL.PIXEL_MEAN": "proposers and CLIP bring their own normalisation",
    "MODEL.PIXEL_STD": "proposers and CLIP bring their own normalisation",
    "SOLVER.REFERENCE_WORLD_SIZE": "IMS_PER_BATCH is the global batch, set it and BASE_LR",
    "TEST.AUG.ENABLED": "there is no test-time augmentation",
    "TEST.PRECISE_BN.ENABLED": "choose a frozen or synchronised norm",
    "VIS_PERIOD": "use SOLVER.PICTURE_PERIOD",
}

# yacs shows both classes by their full names, and all lines of a group of keys.
_MISMATCH = re.compile(
    r"Type mismatch \(<class '(?:\w+\.)*(?P<expected>\w+)'> vs. <class '(?:\w+\.)*(?P<given>\w+)'>\) "
    r"with values \(.* vs. (?P<value>.*)\) for config key: (?P<key>[\w.]+)",
    re.DOTALL,
)


_UNKNOWN = re.compile(r"Non-existent config key: (?P<key>[\w.]+)", re.DOTALL)


def check_not_ignored(cfg: CfgNode) -> None:
    """Raises UserError when a key of Detectron2 is set that has no effect here."""
    defaults = get_cfg()
    for key, advice in _IGNORED.items():
        given, default = cfg, defaults
        for part in key.split("."):
            given, default = given[part], default[part]
        if given != default:
            raise UserError(f"{key} is {given}, but this key of Detectron2 has no effect here: {advice}.")


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
        return f"there is no key {key}.{closest(key, keys_of(defaults))}"
    if (mismatch := _MISMATCH.fullmatch(text)) is not None:
        expected, given, key = mismatch["expected"], mismatch["given"], mismatch["key"]
        if expected == "CfgNode":
            return f"{key} is a group of keys and cannot be set to a {given}: set one of its keys."
        return f"{key} takes a {expected}, not the {given} {mismatch['value']!r}."
    return text.splitlines()[0].rstrip(".") + "." if text else f"{type(error).__name__}."
