"""The search of search_ensemble.py: every pair of threshold and weight in one pass over the data."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from tabulate import tabulate
from tqdm import tqdm

from maft.building import build_model
from maft.classifiers.masked_crops import MaskedCrops
from maft.data.catalog import dataset
from maft.data.loader import build_test_loader
from maft.data.mappers import SegmentationMapper
from maft.data.reading import Record
from maft.data.records import load_records
from maft.engine.training import set_up
from maft.errors import UserError
from maft.evaluation.semantic import SemanticEvaluator, test_vocabulary
from maft.files import write_json_atomic
from maft.interfaces import Ensemble
from maft.registry import ENSEMBLES
from maft.segmentor import OpenVocabSegmentor
from maft.test_time import averaging


@torch.no_grad()
def search(
    cfg: CfgNode, model: OpenVocabSegmentor, name: str, thresholds: Sequence[float], weights: Sequence[float]
) -> list[dict[str, float]]:
    """Evaluates every pair of threshold and weight; has to be called by all processes.

    Images are read and masks proposed once, regions are embedded once a threshold, and only the ensemble runs for
    every pair. The model is as before afterwards.

    Args:
        name: dataset with label maps.

    Returns:
        one dict per pair, in order: "threshold", "weight" and the percentages of the semantic evaluator.

    Raises:
        UserError: the model is not OVSeg's, a value is out of range, or the dataset cannot be used.
    """
    classifier = model.classifier
    if not isinstance(classifier, MaskedCrops):
        raise UserError("The search is for masked crops: use a config with MODEL.CLASSIFIER.NAME MaskedCrops.")
    if averaging(cfg):
        raise UserError("The search measures whole images: set TEST.AUG.ENABLED and TEST.SLIDING_WINDOW.ENABLED False.")
    if not thresholds or not weights:
        raise UserError("The search needs at least one threshold and one weight.")
    for threshold in thresholds:
        if not 0 <= threshold < 1:
            raise UserError(f"Mask threshold {threshold} does not lie in [0, 1).")
    rules = {weight: ENSEMBLES.build("OVSegEnsemble", {"WEIGHT": weight}) for weight in weights}
    row, records = dataset(name), load_records([name], "DATASETS.TEST")
    words, things = test_vocabulary(cfg, row, name)
    evaluators = {
        (threshold, weight): SemanticEvaluator.of_dataset(cfg, row) for threshold in thresholds for weight in weights
    }
    mapper = SegmentationMapper.from_config(cfg, False, datasets=[name])
    loader = build_test_loader(records, mapper, workers=cfg.DATALOADER.NUM_WORKERS)
    before = classifier.mask_threshold, model.ensemble, model.inference_options
    model.inference_options = {
        **model.inference_options, "semantic": True, "labels_only": True, "panoptic": False, "instance": False
    }  # fmt: skip
    try:
        with model.using_vocabulary(words, things), inference_context(model):
            hidden = None if comm.is_main_process() else True
            for batch in tqdm(loader, "Searching", unit="image", mininterval=5, disable=hidden):
                _evaluate_image(model, classifier, rules, batch, evaluators)
    finally:
        classifier.mask_threshold, model.ensemble, model.inference_options = before
    comm.synchronize()
    return [
        {"threshold": threshold, "weight": weight, **evaluator.evaluate()["sem_seg"]}
        for (threshold, weight), evaluator in evaluators.items()
    ]


def _evaluate_image(
    model: OpenVocabSegmentor,
    classifier: MaskedCrops,
    rules: dict[float, Ensemble],
    batch: list[Record],
    evaluators: dict[tuple[float, float], SemanticEvaluator],
) -> None:
    truth = next(iter(evaluators.values())).truth(batch[0])
    images = model.padded(batch)
    proposals = model.propose(images, batch)
    for threshold in dict.fromkeys(threshold for threshold, _ in evaluators):
        classifier.mask_threshold = threshold
        classification = model.classify(images, proposals)
        for weight, rule in rules.items():
            model.ensemble = rule
            result = model.combine(images, proposals, classification, batch)[0]
            evaluators[threshold, weight].add(result["sem_seg_labels"], truth, batch[0]["sem_seg_file_name"])


def run(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    set_up(cfg)
    name = arguments.dataset or next(iter(cfg.DATASETS.TEST), "")
    if not name:
        raise UserError("No dataset to search on: give --dataset, or set DATASETS.TEST.")
    model = build_model(cfg).eval()
    if not isinstance(model, OpenVocabSegmentor):
        raise UserError("The search is for segmentation: use a config with MODEL.META_ARCHITECTURE OpenVocabSegmentor.")
    rows = search(cfg, model, name, arguments.thresholds, arguments.weights)
    if not comm.is_main_process():
        return
    if arguments.metric not in rows[0]:
        known = ", ".join(key for key in rows[0] if "-" not in key and key not in ("threshold", "weight"))
        raise UserError(f"There is no metric {arguments.metric!r} on {name}; there are: {known}.")
    best = max(rows, key=lambda row: row[arguments.metric])
    cells = {(row["threshold"], row["weight"]): f"{row[arguments.metric]:.2f}" for row in rows}
    table = [[threshold, *(cells[threshold, w] for w in arguments.weights)] for threshold in arguments.thresholds]
    logging.getLogger("maft").info(
        "%s on %s by mask threshold (rows) and ensemble weight (columns):\n%s\nBest: %.2f with "
        "MODEL.CLASSIFIER.MaskedCrops.MASK_THRESHOLD %g MODEL.ENSEMBLE.OVSegEnsemble.WEIGHT %g",
        arguments.metric, name, tabulate(table, ["", *arguments.weights]), best[arguments.metric], best["threshold"],
        best["weight"],
    )  # fmt: skip
    write_json_atomic(Path(cfg.OUTPUT_DIR) / "ensemble_search.json", {"dataset": name, "results": rows})
