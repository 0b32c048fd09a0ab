#!/usr/bin/env python3
"""Find OVSeg's mask threshold and ensemble weight for a dataset, all pairs in one pass over the data.

The last step of OVSeg's release.
"""

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
from maft.config import load_config
from maft.data.catalog import dataset
from maft.data.loader import build_test_loader
from maft.data.mappers import SegmentationMapper
from maft.data.reading import Record
from maft.data.records import load_records
from maft.engine.launch import choose_processes, launch
from maft.engine.training import set_up
from maft.errors import ToolParser, UserError, run_tool
from maft.evaluation.semantic import SemanticEvaluator, test_vocabulary
from maft.files import write_json_atomic
from maft.interfaces import Ensemble
from maft.registry import ENSEMBLES
from maft.segmentor import OpenVocabSegmentor
from maft.test_time import averaging

# The grids of the official release's search script.
THRESHOLDS = (0.35, 0.4, 0.45)
WEIGHTS = (0.6, 0.65, 0.7, 0.75, 0.8)


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
        (threshold, weight): SemanticEvaluator.of_dataset(row, cfg.TEST.PROTOCOL)
        for threshold in thresholds
        for weight in weights
    }
    mapper = SegmentationMapper.from_config(cfg, False, datasets=[name])
    loader = build_test_loader(records, mapper, workers=cfg.DATALOADER.NUM_WORKERS)
    before = classifier.mask_threshold, model.ensemble, model.inference_options
    model.inference_options = {
        **model.inference_options, "semantic": True, "labels_only": True, "panoptic": False, "instance": False
    }  # fmt: skip
    try:
        with model.using_vocabulary(words, things), inference_context(model):
            for batch in tqdm(loader, "Searching", unit="image", mininterval=5, disable=not comm.is_main_process()):
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


def parse_arguments() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config with MaskedCrops")
    parser.add_argument("--dataset", metavar="NAME", help="where to search (default: the first of DATASETS.TEST)")
    parser.add_argument("--thresholds", type=float, nargs="+", default=THRESHOLDS, metavar="T", help="mask thresholds")
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS, metavar="W", help="ensemble weights")
    parser.add_argument("--metric", default="mIoU", metavar="NAME", help="what is best (default: mIoU)")
    parser.add_argument("--num-gpus", type=int, metavar="N", help="GPUs (default: 1 if any); 0: the CPU")
    parser.add_argument("--num-processes", type=int, metavar="N", help="processes on the CPU (default: 1)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY VALUE", help="config overrides")
    return parser.parse_args()


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


def main() -> None:
    arguments = parse_arguments()
    cfg = load_config(arguments.config_file, arguments.set)
    processes = choose_processes(
        device=cfg.MODEL.DEVICE, num_gpus=arguments.num_gpus, num_processes=arguments.num_processes
    )
    cfg.MODEL.DEVICE = processes.device
    cfg.freeze()
    launch(run, (cfg, arguments), processes, imports=cfg.IMPORTS)


if __name__ == "__main__":
    run_tool(main)
