"""Evaluates a model on a dataset: vocabulary, loader, evaluators, progress, pictures and reports."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.utils import comm

from maft.checkpoint.fingerprint import fingerprint
from maft.data.catalog import DatasetRow, class_names, dataset
from maft.data.loader import build_test_loader
from maft.data.mappers import SegmentationMapper
from maft.data.reading import Record
from maft.data.records import load_records
from maft.errors import UserError
from maft.evaluation.cityscapes import CityscapesInstanceEvaluator
from maft.evaluation.counts import Counts, Evaluated, gathered_tables, image_names, write_counts
from maft.evaluation.evaluators import asked_kinds, build_evaluators, chosen_evaluators
from maft.evaluation.mask_accuracy import check_mask_accuracy, mask_accuracy_evaluators
from maft.evaluation.pictures import picture, write_picture
from maft.evaluation.predictions import PredictionWriter
from maft.evaluation.progress import Clock, EvaluationState
from maft.evaluation.provenance import DataDigests, json_digest, provenance
from maft.evaluation.report import (
    Results,
    definition,
    expected_table,
    metrics,
    results_table,
    write_per_class,
    write_results,
)
from maft.evaluation.runs import results_folder
from maft.evaluation.semantic import SemanticEvaluator, seen_classes, test_vocabulary
from maft.segmentor import OpenVocabSegmentor
from maft.test_time import averaging, check_test_time, inference_of

logger = logging.getLogger(__name__)


def evaluate(cfg: CfgNode, model: OpenVocabSegmentor) -> dict[str, Results]:
    """Evaluates on all of ``DATASETS.TEST``; has to be called by all processes.

    Reports go to ``OUTPUT_DIR/inference/<dataset>/``: ``results.json``, ``per_class.csv``, the counts of each image
    behind them ``counts.safetensors`` (see `maft.evaluation.counts`), with ``TEST.VISUALIZE`` ``pictures/`` and with
    ``TEST.SAVE_PREDICTIONS`` ``predictions/`` (see `PredictionWriter`). The model's vocabulary and training mode are as
    before afterwards.

    Returns:
        dataset -> task ("sem_seg", "panoptic_seg", "segm", with ``TEST.MASK_ACCURACY`` also "mask_accuracy" and
        "panoptic_mask_accuracy") -> metric -> percentage.

    Raises:
        UserError: a dataset, its files or an option cannot be used.
    """
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST is empty: name at least one dataset to evaluate on.")
    # A misspelt last name should not cost the evaluation of the others.
    check_evaluation(cfg, cfg.DATASETS.TEST)
    for name in cfg.DATASETS.TEST:
        model.proposer.check_records(load_records([name], "DATASETS.TEST"))
    return {name: evaluate_dataset(cfg, model, name) for name in cfg.DATASETS.TEST}


def check_evaluation(cfg: CfgNode, names: Sequence[str]) -> None:
    """Checks options and names before a model has run; no file of a dataset's images is touched.

    Raises:
        UserError: a dataset does not exist, or an option cannot be used on it.
    """
    for _, metric, _ in cfg.TEST.EXPECTED:
        if not definition(metric.rpartition("/")[2]):
            raise UserError(f"TEST.EXPECTED holds the metric {metric!r}, which does not exist; there is {metrics()}.")
    check_test_time(cfg)
    for name in names:
        row = dataset(name)
        chosen = chosen_evaluators(cfg, row)
        if "semantic" in chosen:
            SemanticEvaluator.of_dataset(cfg, row)
        if cfg.TEST.MASK_ACCURACY:
            check_mask_accuracy(cfg, chosen, name)
        if "instance" in chosen and row.instance_suffix:
            CityscapesInstanceEvaluator.of_dataset(row)


def evaluate_dataset(cfg: CfgNode, model: OpenVocabSegmentor, name: str) -> Results:
    """Evaluates on one dataset, see `evaluate`."""
    row = dataset(name)
    records = load_records([name], "DATASETS.TEST")
    evaluators = build_evaluators(cfg, row, records)
    words, things = test_vocabulary(cfg, row, name)
    folder = results_folder(cfg.OUTPUT_DIR, name)
    facts = {
        "dataset": name,
        "protocol": cfg.TEST.PROTOCOL,
        "panoptic_rule": cfg.TEST.PANOPTIC_RULE,
        "weights": cfg.MODEL.WEIGHTS,
        "start_from": [dict(entry) for entry in cfg.MODEL.START_FROM],
        "vocabulary": list(words.names),
        "test_size": [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST],
        **averaging(cfg),
    }
    # The weights themselves are part of the fingerprint; where they came from and where they run is not.
    parts = {key: value for key, value in cfg.MODEL.items() if key not in ("WEIGHTS", "START_FROM", "DEVICE")}
    weights = functools.cache(lambda: fingerprint(model, {}))
    identity = {
        **facts,
        "weights": "",
        "start_from": [],
        "model": parts,
        "labels": class_names(name),
        "save_predictions": cfg.TEST.SAVE_PREDICTIONS,
        "mask_accuracy": cfg.TEST.MASK_ACCURACY,
        "images": [record["file_name"] for record in records],
        "kept": "counts of each image",
    }
    semantic = evaluators.get("sem_seg")
    if cfg.TEST.MASK_ACCURACY:
        evaluators |= mask_accuracy_evaluators(cfg, row, model, records, chosen_evaluators(cfg, row))
    if cfg.TEST.SAVE_PREDICTIONS:
        offered = semantic.offered.tolist() if semantic is not None else range(len(words))
        kinds = [kind for kind, on in asked_kinds(cfg).items() if on]
        evaluators["predictions"] = PredictionWriter(folder / "predictions", row, records, offered, kinds)
    evaluators["digests"] = digests = DataDigests(records)
    state = EvaluationState(
        folder / f"unfinished_{comm.get_rank()}_of_{comm.get_world_size()}.safetensors",
        evaluators,
        lambda: json_digest({**identity, "state_dict": weights()}),
    )
    done = state.restore() if cfg.TEST.RESUME else 0
    mapper = SegmentationMapper.from_config(
        cfg, False, targets=cfg.INPUT.MAPPER if model.proposer.needs_targets else None, datasets=[name]
    )
    loader = build_test_loader(records, mapper, workers=cfg.DATALOADER.NUM_WORKERS, skip=done)
    pictures = cfg.TEST.VISUALIZE if comm.is_main_process() else 0
    clock = Clock(len(loader), cfg.MODEL.DEVICE)
    infer = inference_of(cfg, model)
    with model.using_vocabulary(words, things), inference_context(model), torch.no_grad():
        for index, batch in enumerate(clock.images(loader), start=done):
            with clock.measuring("model"):
                outputs = infer(batch)
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
    tables, taken = gathered_tables(evaluators.values()), digests.gathered()
    if comm.is_main_process():
        counts = Counts(_evaluated(cfg, row, name, records), tables, taken["picture"], taken["annotation"])
        write_counts(folder, counts)
        facts |= {"images": len(records), "seconds_per_image": clock.per_image()}
        facts["provenance"] = provenance(cfg, weights(), counts.of.names, counts.pictures, counts.annotations)
        _report(cfg, row, name, folder, results, facts)
    state.discard()
    return results


def _evaluated(cfg: CfgNode, row: DatasetRow, name: str, records: Sequence[Record]) -> Evaluated:
    files = [record["file_name"] for record in records]
    return Evaluated(
        dataset=name,
        protocol=cfg.TEST.PROTOCOL,
        class_names=tuple(class_names(name)),
        ignore_label=row.ignore_label,
        seen=seen_classes(cfg, row),
        things=row.things,
        files=tuple(files),
        names=tuple(image_names(files)),
        ids=tuple(record["image_id"] for record in records),
    )


def _report(cfg: CfgNode, row: DatasetRow, name: str, folder: Path, results: Results, facts: Mapping[str, Any]) -> None:
    same = {row.name, *row.aliases, name}
    expected = [(metric, float(value)) for owner, metric, value in cfg.TEST.EXPECTED if owner in same]
    logger.info("Results on %s (%s):\n%s", name, cfg.TEST.PROTOCOL, results_table(results))
    classes: list[dict[str, Any]] = [{"class": index, "name": word} for index, word in enumerate(class_names(name))]
    if (seen := seen_classes(cfg, row)) is not None and not row.seen_only:
        for columns, flag in zip(classes, seen):
            columns["seen"] = int(flag)
    write_results(folder, results, {**facts, "expected": [list(pair) for pair in expected]})
    write_per_class(folder / "per_class.csv", results, classes)
    logger.info("All numbers: %s; per class: %s", folder / "results.json", folder / "per_class.csv")
    if cfg.TEST.SAVE_PREDICTIONS:
        logger.info("Predictions: %s", folder / "predictions")
    if expected:
        logger.info("%s, measured and published:\n%s", cfg.TEST.REPRODUCES or name, expected_table(expected, results))
