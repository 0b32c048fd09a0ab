#!/usr/bin/env python3
"""Find OVSeg's mask threshold and ensemble weight for a dataset, all pairs in one pass over the data.

The last step of OVSeg's release.
"""

import argparse

from maft.errors import ToolParser, run_tool

# The grids of the official release's search script.
THRESHOLDS = (0.35, 0.4, 0.45)
WEIGHTS = (0.6, 0.65, 0.7, 0.75, 0.8)


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


def main() -> None:
    arguments = parse_arguments()

    from ensemble_search import run

    from maft.config import load_config
    from maft.engine.launch import choose_processes, launch

    cfg = load_config(arguments.config_file, arguments.set)
    processes = choose_processes(
        device=cfg.MODEL.DEVICE, num_gpus=arguments.num_gpus, num_processes=arguments.num_processes
    )
    cfg.MODEL.DEVICE = processes.device
    cfg.freeze()
    launch(run, (cfg, arguments), processes, imports=cfg.IMPORTS)


if __name__ == "__main__":
    run_tool(main)
