"""Measures outputs on a dataset: vocabulary, evaluators, progress, pictures and reports."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from maft.data.catalog import DatasetRow, class_names, dataset
from maft.data.reading import Record
from maft.evaluation.counts import Counts, Evaluated, gathered_tables, image_names, write_counts
from maft.evaluation.evaluators import asked_kinds, build_evaluators, chosen_evaluators
from maft.evaluation.mask_accuracy import mask_accuracy_evaluators
from maft.evaluation.pictures import picture, write_picture
from maft.evaluation.predictions import PredictionWriter
from maft.evaluation.progress import Clock, EvaluationState
from maft.evaluation.provenance import DataDigests, json_digest, provenance
from maft.evaluation.report import Results, expected_table, results_table, write_per_class, write_results
from maft.evaluation.runs import results_folder
from maft.evaluation.semantic import seen_classes, test_vocabulary
from maft.evaluation.sources import Source
from maft.structures import Vocabulary
from maft.test_time import averaging

logger = logging.getLogger(__name__)


def measure(cfg: CfgNode, source: Source, name: str, records: list[Record]) -> Results:
    """Measures the outputs of a source and writes its reports; has to be called by all processes.

    Args:
        source: of the outputs.
        name: of the dataset.
        records: its images.
    """
    row = dataset(name)
    words, things = test_vocabulary(cfg, row, name)
    folder = results_folder(cfg.OUTPUT_DIR, name)
    facts = _facts(cfg, source, name, words)
    evaluators = _evaluators(cfg, source, row, records, words, folder)
    identity = _identity(cfg, facts, name, records)
    state = EvaluationState(
        folder / f"unfinished_{comm.get_rank()}_of_{comm.get_world_size()}.safetensors",
        evaluators,
        lambda: json_digest({**identity, "source": source.identity()}),
    )
    done = state.restore() if cfg.TEST.RESUME else 0
    with source.ready(words, things):
        batches = source.batches(done)
        clock = Clock(len(batches), cfg.MODEL.DEVICE)
        pictures = _Pictures(folder / "pictures", cfg.TEST.VISUALIZE, evaluators.get("sem_seg"))
        for count, (batch, outputs) in enumerate(_measured(source, batches, clock, evaluators), start=done + 1):
            pictures.draw(count, batch[0], outputs[0])
            if source.whole:
                state.save_if_due(count)
    comm.synchronize()
    results: Results = {}
    for evaluator in evaluators.values():
        results.update(evaluator.evaluate())
    tables, taken = gathered_tables(evaluators.values()), evaluators["digests"].gathered()
    if comm.is_main_process():
        counts = Counts(_evaluated(cfg, row, name, records), tables, taken["picture"], taken["annotation"])
        write_counts(folder, counts)
        facts |= {"images": len(records), "seconds_per_image": clock.per_image()}
        facts["provenance"] = provenance(cfg, source.weights(), counts.of.names, counts.pictures, counts.annotations)
        _report(cfg, row, name, folder, results, facts)
    state.discard()
    return results


def _measured(
    source: Source, batches: Any, clock: Clock, evaluators: Mapping[str, Any]
) -> Iterator[tuple[list[Record], list[dict[str, Any]]]]:
    """Each batch and its outputs, once the evaluators have them."""
    for batch in clock.images(batches):
        with clock.measuring("model"):
            outputs = source.outputs(batch)
        with clock.measuring("evaluator"):
            for evaluator in evaluators.values():
                evaluator.process(batch, outputs)
        yield batch, outputs


class _Pictures:
    """Draws the main process' first images, where there are semantic results."""

    def __init__(self, folder: Path, number: int, semantic: Any) -> None:
        self.folder, self.semantic = folder, semantic
        self.number = number if comm.is_main_process() and semantic is not None else 0

    def draw(self, count: int, record: Record, output: dict[str, Any]) -> None:
        if count <= self.number:
            drawn = picture(record, output, self.semantic.class_names, self.semantic.offered)
            write_picture(self.folder, record, drawn)


def _facts(cfg: CfgNode, source: Source, name: str, words: Vocabulary) -> dict[str, Any]:
    return {
        "dataset": name,
        "protocol": cfg.TEST.PROTOCOL,
        "panoptic_rule": cfg.TEST.PANOPTIC_RULE,
        **source.facts,
        "vocabulary": list(words.names),
        "test_size": [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST],
        **averaging(cfg),
    }


def _identity(cfg: CfgNode, facts: Mapping[str, Any], name: str, records: Sequence[Record]) -> dict[str, Any]:
    """What the counts of an unfinished evaluation depend on; the weights themselves are, where they lie is not."""
    parts = {key: value for key, value in cfg.MODEL.items() if key not in ("WEIGHTS", "START_FROM", "DEVICE")}
    return {
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


def _evaluators(
    cfg: CfgNode, source: Source, row: DatasetRow, records: list[Record], words: Vocabulary, folder: Path
) -> dict[str, Any]:
    evaluators = build_evaluators(cfg, row, records)
    semantic = evaluators.get("sem_seg")
    if cfg.TEST.MASK_ACCURACY:
        kinds = [kind for kind in chosen_evaluators(cfg, row) if source.looks or kind == "semantic"]
        evaluators |= mask_accuracy_evaluators(cfg, row, source.model if source.looks else None, records, kinds)
    if cfg.TEST.SAVE_PREDICTIONS:
        offered = semantic.offered.tolist() if semantic is not None else range(len(words))
        asked = [kind for kind, on in asked_kinds(cfg).items() if on]
        evaluators["predictions"] = PredictionWriter(folder / "predictions", row, records, offered, asked)
    evaluators["digests"] = DataDigests(records)
    return evaluators


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
