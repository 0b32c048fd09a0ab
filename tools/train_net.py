#!/usr/bin/env python3
"""Train or evaluate the model that a config describes."""

import argparse
import logging

from detectron2.utils.logger import setup_logger

from maft.config import load_config
from maft.engine.launch import Processes, choose_processes, launch
from maft.engine.training import run
from maft.errors import ToolParser, run_tool

EXAMPLES = """examples:
  tools/train_net.py --config-file configs/quickstart/maft.yaml
  tools/train_net.py --config-file C --resume                            go on after an interruption
  tools/train_net.py --config-file C --eval-only MODEL.WEIGHTS FOLDER    evaluate
  tools/train_net.py --config-file C --num-gpus 8 SOLVER.IMS_PER_BATCH 16 SOLVER.BASE_LR 1e-5
  tools/train_net.py --config-file C --num-gpus 0 --num-processes 2      two processes on the CPU
  torchrun --nproc-per-node 8 tools/train_net.py --config-file C
"""


def parse_arguments() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog=EXAMPLES,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML config")
    parser.add_argument(
        "--eval-only",
        action="store_true",
        help="evaluate the weights that the config names; with --resume, the last checkpoint",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    parser.add_argument("--num-gpus", type=int, metavar="N", help="GPUs per machine (default: 1 if any); 0: the CPU")
    parser.add_argument("--num-processes", type=int, metavar="N", help="processes per machine on the CPU (default: 1)")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="R", help="which of them this one is, from 0")
    parser.add_argument("--dist-url", default="auto", metavar="URL", help="where processes meet: tcp://HOST:PORT")
    parser.add_argument(
        "--timeout", type=float, default=30, metavar="MINUTES", help="how long processes wait for others (default: 30)"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides, such as SOLVER.BASE_LR 1e-5")
    return parser.parse_intermixed_args()


def choose_device(arguments: argparse.Namespace, device: str) -> Processes:
    processes = choose_processes(
        device=device,
        num_gpus=arguments.num_gpus,
        num_processes=arguments.num_processes,
        machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        url=arguments.dist_url,
        timeout=arguments.timeout,
    )
    if device.startswith("cuda") and processes.device == "cpu" and arguments.num_gpus is None:
        setup_logger(name="maft")
        logging.getLogger("maft").warning("MODEL.DEVICE is %s, but there is no usable GPU: running on the CPU.", device)
    return processes


def main() -> None:
    arguments = parse_arguments()
    cfg = load_config(arguments.config_file, arguments.opts)
    processes = choose_device(arguments, cfg.MODEL.DEVICE)
    cfg.MODEL.DEVICE = processes.device
    cfg.freeze()
    launch(run, (cfg, arguments.eval_only, arguments.resume), processes, imports=cfg.IMPORTS)


if __name__ == "__main__":
    run_tool(main)
