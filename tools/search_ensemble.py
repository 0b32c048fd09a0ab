#!/usr/bin/env python3
"""Find OVSeg's mask threshold and ensemble weight for a dataset, all pairs in one pass over the data."""

import argparse
import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm
from tabulate import tabulate

from maft.building import build_model
from maft.config import load_config
from maft.engine.launch import choose_processes, launch
from maft.engine.training import set_up
from maft.errors import ToolParser, UserError, run_tool
from maft.evaluation.ensemble_search import THRESHOLDS, WEIGHTS, search
from maft.files import write_json_atomic
from maft.segmentor import OpenVocabSegmentor


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
        "MODEL.CLASSIFIER.MaskedCrops.MASK_THRESHOLD %g MODEL.ENSEMBLE.ovseg.WEIGHT %g",
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
