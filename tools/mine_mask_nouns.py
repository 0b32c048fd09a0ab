#!/usr/bin/env python3
"""Mine pairs of masked regions and nouns from captioned images, to fine-tune CLIP on, as OVSeg does."""

import argparse
from pathlib import Path

from maft.config import load_config
from maft.engine.launch import choose_processes, launch
from maft.errors import ToolParser, run_tool
from maft.mining.run import mine
from maft.mining.task import MiningTask

EXAMPLES = """the four variants of the paper's Table 2:
  ... --masks ground_truth --output DIR                                       ground-truth masks and names
  ... --masks ground_truth --captions FILE --output DIR                       ground-truth masks, one caption
  ... --captions FILE --output DIR MODEL.WEIGHTS FOLDER                       proposals, one caption
  ... --captions FILE --captions-per-image 5 --output DIR MODEL.WEIGHTS FOLDER   proposals, five captions

The same command goes on where an interrupted run stopped.
Train on the table with DATASETS.TRAIN '["pairs:DIR/pairs.tsv"]'.
"""


def parse_arguments() -> argparse.Namespace:
    parser = ToolParser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config with a proposer and MaskedCrops")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where regions and table go")
    parser.add_argument("--masks", default="proposals", metavar="SOURCE", help="proposals (default) or ground_truth")
    parser.add_argument("--captions", metavar="FILE", help="captions in COCO's format; default: ground-truth names")
    parser.add_argument("--captions-per-image", type=int, default=1, metavar="N", help="how many are read (default: 1)")
    parser.add_argument("--images", metavar="DIR", help="folder of the images (default: that of DATASETS.TRAIN)")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N images (default: all)")
    parser.add_argument("--num-gpus", type=int, metavar="N", help="GPUs per machine (default: 1 if any); 0: the CPU")
    parser.add_argument("--num-processes", type=int, metavar="N", help="processes per machine on the CPU (default: 1)")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="R", help="which of them this one is, from 0")
    parser.add_argument("--dist-url", default="auto", metavar="URL", help="where processes meet: tcp://HOST:PORT")
    parser.add_argument(
        "--timeout", type=float, default=30, metavar="MINUTES", help="how long processes wait for others (default: 30)"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides, such as MODEL.WEIGHTS FOLDER")
    return parser.parse_intermixed_args()


def main() -> None:
    arguments = parse_arguments()
    cfg = load_config(arguments.config_file, arguments.opts)
    task = MiningTask(
        arguments.masks, arguments.captions, arguments.captions_per_image, arguments.images, arguments.limit
    )
    if task.masks == "ground_truth":
        cfg.MODEL.PROPOSER.NAME = "GroundTruth"
    processes = choose_processes(
        device=cfg.MODEL.DEVICE,
        num_gpus=arguments.num_gpus,
        num_processes=arguments.num_processes,
        machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        url=arguments.dist_url,
        timeout=arguments.timeout,
    )
    cfg.MODEL.DEVICE = processes.device
    cfg.OUTPUT_DIR = str(arguments.output)
    cfg.freeze()
    launch(mine, (cfg, task), processes, imports=cfg.IMPORTS)


if __name__ == "__main__":
    run_tool(main)
