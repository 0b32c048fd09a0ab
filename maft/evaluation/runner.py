"""Evaluates a model on a dataset: vocabulary, loader, evaluators, progress, pictures and reports."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from torch import nn

from maft.data.catalog import DatasetRow, class_names, dataset
from maft.data.loader import build_test_loader, load_records
from maft.data.mappers import SegmentationMapper
from maft.errors import UserError
from maft.evaluation.instance import InstanceEvaluator
from maft.evaluation.panoptic import PanopticEvaluator
from maft.evaluation.pictures import picture, write_picture
from maft.evaluation.progress import Clock, EvaluationState, fingerprint
from maft.evaluation.report import (
    definition,
    expected_table,
    metrics,
    per_class_rows,
    results_table,
    write_per_class,
    write_results,
)
from maft.evaluation.semantic import SemanticEvaluator, test_vocabulary, thing_flags

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, float]]


def evaluate(cfg: CfgNode, model: nn.Module, dataset_name: str | None = None) -> dict[str, Results]:
    """Evaluates on one dataset, or on all of ``DATASETS.TEST``; has to be called by all processes.

    Reports go to ``OUTPUT_DIR/inference/<dataset>/``: ``results.json``, ``per_class.csv`` and, with
    ``TEST.VISUALIZE``, ``pictures/``. The model's vocabulary and training mode are as before afterwards.

    Returns:
        dataset -> task ("sem_seg", "panoptic_seg", "segm") -> metric -> percentage.

    Raises:
        UserError: a dataset, its files or an option cannot be used.
    """
    names = [dataset_name] if dataset_name else list(cfg.DATASETS.TEST)
    if not names:
        raise UserError("DATASETS.TEST is empty: name at least one dataset to evaluate on.")
    # A misspelt last name should not cost the evaluation of the others.
    check_evaluation(cfg, names)
    return {name: evaluate_dataset(cfg, model, name) for name in names}


def check_evaluation(cfg: CfgNode, names: Sequence[str]) -> None:
    """Checks options and names before a model has run; no file of a dataset's images is touched.

    Raises:
        UserError: a dataset does not exist, or an option cannot be used on it.
    """
    for entry in cfg.TEST.EXPECTED:
        if len(entry) != 3:
            raise UserError(f"TEST.EXPECTED holds {list(entry)}: each entry is [dataset, metric, value].")
        if not definition(entry[1].rpartition("/")[2]):
            raise UserError(f"TEST.EXPECTED holds the metric {entry[1]!r}, which does not exist; there is {metrics()}.")
    for name in names:
        if "semantic" in chosen_evaluators(cfg, dataset(name)):
            _semantic_evaluator(cfg, dataset(name))


def evaluate_dataset(cfg: CfgNode, model: nn.Module, name: str, *, state_seconds: float = 60.0) -> Results:
    """Evaluates on one dataset, see `evaluate`.

    Args:
        state_seconds: least time between two savings of the state that ``TEST.RESUME`` continues from.
    """
    plain: Any = getattr(model, "module", model)
    row = dataset(name)
    records = load_records([name], "DATASETS.TEST")
    evaluators = build_evaluators(cfg, row, records)
    words, things = test_vocabulary(cfg, row, name)
    folder = Path(cfg.OUTPUT_DIR) / "inference" / re.sub(r"[^\w.-]+", "_", name)
    facts = {
        "dataset": name,
        "protocol": cfg.TEST.PROTOCOL,
        "weights": cfg.MODEL.WEIGHTS,
        "vocabulary": list(words.names),
        "test_size": [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST],
    }
    # The weights themselves are part of the fingerprint; where they came from and where they run is not.
    parts = {key: value for key, value in json.loads(json.dumps(cfg.MODEL)).items() if key not in ("WEIGHTS", "DEVICE")}
    identity = {**facts, "weights": "", "model": parts, "images": [record["file_name"] for record in records]}
    state = EvaluationState(
        folder / f"unfinished_{comm.get_rank()}_of_{comm.get_world_size()}.safetensors",
        evaluators,
        lambda: fingerprint(plain, identity),
        state_seconds,
    )
    done = state.restore() if cfg.TEST.RESUME else 0
    needs_targets = getattr(getattr(plain, "proposer", None), "needs_targets", False)
    mapper = SegmentationMapper.from_config(
        cfg, False, targets=cfg.INPUT.MAPPER if needs_targets else None, datasets=[name]
    )
    loader = build_test_loader(records, mapper, workers=cfg.DATALOADER.NUM_WORKERS, skip=done)
    pictures = cfg.TEST.VISUALIZE if comm.is_main_process() else 0
    semantic = evaluators.get("sem_seg")
    clock = Clock(len(loader), cfg.MODEL.DEVICE)
    with plain.using_vocabulary(words, things), inference_context(plain), torch.no_grad():
        for index, batch in enumerate(clock.images(loader), start=done):
            with clock.measuring("model"):
                outputs = plain(batch)
            with clock.measuring("evaluator"):
                for evaluator in evaluators.values():
                    evaluator.process(batch, outputs)
            if index < pictures and semantic is not None:
                drawn = picture(batch[0], outputs[0], semantic.class_names, semantic.offered)
                write_picture(folder / "pictures", batch[0], drawn)
            state.save_if_due(index + 1)
    comm.synchronize()
    results: Results = {}
    for evaluator in evaluators.values():
        results.update(evaluator.evaluate())
    state.discard()
    if comm.is_main_process():
        _report(cfg, row, name, folder, results, {**facts, "seconds_per_image": clock.per_image()})
    return results


def chosen_evaluators(cfg: CfgNode, row: DatasetRow) -> list[str]:
    """What the dataset has labels for and the model gives results for: "semantic", "panoptic", "instance".

    Raises:
        UserError: there is nothing.
    """
    options = cfg.MODEL.INFERENCE
    asked = {"semantic": options.SEMANTIC, "panoptic": options.PANOPTIC, "instance": options.INSTANCE}
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


def build_evaluators(cfg: CfgNode, row: DatasetRow, records: list[dict[str, Any]]) -> dict[str, Any]:
    """The `chosen_evaluators` of a dataset with these records, by the name of their results."""
    chosen = chosen_evaluators(cfg, row)
    names = class_names(row.name)
    evaluators: dict[str, Any] = {}
    if "semantic" in chosen:
        evaluators["sem_seg"] = _semantic_evaluator(cfg, row)
    if "panoptic" in chosen:
        evaluators["panoptic_seg"] = PanopticEvaluator(names, thing_flags(row))
    if "instance" in chosen:
        things = row.classes.things
        truth = _instances(row, {record["image_id"] for record in records})
        category_ids = {index: row.classes.category_ids[index] for index in things}
        evaluators["segm"] = InstanceEvaluator(truth, category_ids, {index: names[index] for index in things})
    return evaluators


def _semantic_evaluator(cfg: CfgNode, row: DatasetRow) -> SemanticEvaluator:
    seen = None if row.seen_only else row.classes.seen
    return SemanticEvaluator(class_names(row.name), row.ignore_label, seen=seen, protocol=cfg.TEST.PROTOCOL)


def _instances(row: DatasetRow, image_ids: set[Any]) -> dict[str, Any]:
    file = row.root / row.instances_json
    if not file.is_file():
        raise UserError(f"Dataset {row.name} has no instance annotation {file}: see datasets/README.md.")
    truth = json.loads(file.read_text(encoding="utf-8"))
    known = {image["id"] for image in truth["images"]}
    if not image_ids <= known:
        stranger = sorted(image_ids - known, key=str)[0]
        raise UserError(f"{file} lacks image {stranger!r} of dataset {row.name}: it belongs to other images.")
    # COCO's evaluation counts every image of the file, so what is not evaluated has to leave it.
    kept = {key: [item for item in truth[key] if item[field] in image_ids] for key, field in
            (("images", "id"), ("annotations", "image_id"))}  # fmt: skip
    return {**truth, **kept}


def _report(cfg: CfgNode, row: DatasetRow, name: str, folder: Path, results: Results, facts: Mapping[str, Any]) -> None:
    same = {row.name, *row.aliases, name}
    expected = [(metric, float(value)) for owner, metric, value in cfg.TEST.EXPECTED if owner in same]
    logger.info("Results on %s (%s):\n%s", name, cfg.TEST.PROTOCOL, results_table(results))
    classes: list[dict[str, Any]] = [{"class": index, "name": word} for index, word in enumerate(class_names(name))]
    if row.classes.seen is not None and not row.seen_only:
        classes = [{**entry, "seen": int(row.classes.seen[entry["class"]])} for entry in classes]
    write_results(folder, results, {**facts, "expected": [list(pair) for pair in expected]})
    write_per_class(folder / "per_class.csv", per_class_rows(results, classes))
    logger.info("All numbers: %s; per class: %s", folder / "results.json", folder / "per_class.csv")
    if expected:
        logger.info("%s, measured and published:\n%s", cfg.TEST.REPRODUCES or name, expected_table(expected, results))
