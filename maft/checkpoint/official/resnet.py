"""Names of Detectron2's ResNet, which ours is too; the pattern only refuses tensors of anything else."""

from __future__ import annotations

from maft.checkpoint.key_map import Rule

RULES: tuple[Rule, ...] = ((r"((?:stem|res[2-5])\..*)", r"\1"),)
