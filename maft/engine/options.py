"""Checks of numbers in the config that training would stumble over later, or never notice."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from maft.errors import UserError

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
