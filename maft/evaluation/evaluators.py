"""Which evaluators measure a dataset."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.config import CfgNode

from maft.data.catalog import DatasetRow, class_names
from maft.data.reading import Record
from maft.errors import UserError
from maft.evaluation.cityscapes import CityscapesInstanceEvaluator
from maft.evaluation.instance import InstanceEvaluator
from maft.evaluation.panoptic import PanopticEvaluator
from maft.evaluation.semantic import SemanticEvaluator

logger = logging.getLogger(__name__)


def chosen_evaluators(cfg: CfgNode, row: DatasetRow) -> list[str]:
    """What the dataset has labels for and the model gives results for: "semantic", "panoptic", "instance".

    Raises:
        UserError: there is nothing.
    """
    asked = asked_kinds(cfg)
    generalized = cfg.TEST.PROTOCOL == "generalized"
    chosen = [kind for kind in row.evaluators if asked[kind] and (generalized or kind == "semantic")]
    if not chosen:
        raise UserError(
            f"Nothing can be measured on {row.name}: it has labels for {', '.join(row.evaluators)} (protocol "
            f"{cfg.TEST.PROTOCOL}), but MODEL.INFERENCE turns on {', '.join(k for k in asked if asked[k]) or 'none'}."
        )
    left_out = [kind for kind, on in asked.items() if on and kind not in chosen]
    if left_out:
        logger.info("No %s results are measured on %s (%s).", " or ".join(left_out), row.name, cfg.TEST.PROTOCOL)
    return chosen


def asked_kinds(cfg: CfgNode) -> dict[str, bool]:
    """Whether the model gives semantic, panoptic and instance results."""
    options = cfg.MODEL.INFERENCE
    return {"semantic": options.SEMANTIC, "panoptic": options.PANOPTIC, "instance": options.INSTANCE}


def build_evaluators(cfg: CfgNode, row: DatasetRow, records: list[Record]) -> dict[str, Any]:
    """The `chosen_evaluators` of a dataset with these records, by the name of their results."""
    chosen = chosen_evaluators(cfg, row)
    names, images = class_names(row.name), [record["file_name"] for record in records]
    evaluators: dict[str, Any] = {}
    if "semantic" in chosen:
        evaluators["sem_seg"] = SemanticEvaluator.of_dataset(cfg, row, images=images)
    if "panoptic" in chosen:
        rule = cfg.TEST.PANOPTIC_RULE
        evaluators["panoptic_seg"] = PanopticEvaluator(names, row.things, rule=rule, images=images)
    if "instance" in chosen:
        evaluators["segm"] = (
            CityscapesInstanceEvaluator.of_dataset(row)
            if row.instance_suffix
            else InstanceEvaluator.of_dataset(row, {record["image_id"] for record in records})
        )
    return evaluators
