"""Detectron2's config with the keys that this project adds; defaults.yaml lists them with their meaning."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

from maft.config_files import read_yaml

# Options of components stand under names that the registries know.
_OPEN = ("PROPOSER", "CLASSIFIER", "ENSEMBLE", "LOSSES")


@cache
def _defaults() -> dict[str, Any]:
    return dict(read_yaml(Path(__file__).with_name("defaults.yaml")))


def add_maft_config(cfg: CfgNode) -> None:
    """Adds our keys and their defaults to a Detectron2 config, in place."""
    cfg.set_new_allowed(True)
    cfg.merge_from_other_cfg(CfgNode(_defaults()))
    cfg.set_new_allowed(False)
    for node in _OPEN:
        cfg.MODEL[node].set_new_allowed(True)


def default_config() -> CfgNode:
    """Detectron2's defaults with ours added."""
    cfg = get_cfg()
    add_maft_config(cfg)
    return cfg
