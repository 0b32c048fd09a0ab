"""Train or evaluate the model that a config describes."""

from __future__ import annotations

from collections.abc import Sequence

from maft.cli.arguments import add_config, add_processes, config_and_overrides, processes
from maft.errors import ToolParser

EXAMPLES = """examples:
  maft train quickstart/maft                                a packaged config, by name
  maft train --config-file C --resume                       go on after an interruption
  maft train --config-file C --num-gpus 8 SOLVER.IMS_PER_BATCH 16 SOLVER.BASE_LR 1e-5
  maft train --config-file C --num-gpus 0 --num-processes 2    two processes on the CPU
  torchrun --nproc-per-node 8 -m maft train --config-file C
  maft evaluate --config-file C MODEL.WEIGHTS FOLDER
"""


def parser() -> ToolParser:
    tool = ToolParser(prog="maft train", description=__doc__, epilog=EXAMPLES)
    tool.add_argument(
        "--eval-only", action="store_true", help="evaluate the weights that the config names, as maft evaluate does"
    )
    add_run(tool, "go on from the last checkpoint in OUTPUT_DIR; with --eval-only, evaluate it")
    return tool


def add_run(tool: ToolParser, resume: str) -> None:
    """What training and evaluation share."""
    add_config(tool, "SOLVER.BASE_LR 1e-5")
    tool.add_argument("--resume", action="store_true", help=resume)
    add_processes(tool)


def main(argv: Sequence[str] | None = None) -> None:
    run(parser(), argv)


def run(tool: ToolParser, argv: Sequence[str] | None) -> None:
    """Trains, or evaluates, as a command line says."""
    arguments = tool.parse_intermixed_args(argv)

    from maft.config import load_config
    from maft.engine import training
    from maft.engine.launch import launch

    cfg = load_config(*config_and_overrides(tool, arguments))
    chosen = processes(arguments, cfg.MODEL.DEVICE)
    if cfg.MODEL.DEVICE.startswith("cuda") and chosen.device == "cpu" and arguments.num_gpus is None:
        _say_that_there_is_no_gpu(cfg.MODEL.DEVICE)
    cfg.MODEL.DEVICE = chosen.device
    cfg.freeze()
    launch(training.run, (cfg, arguments.eval_only, arguments.resume), chosen, imports=cfg.IMPORTS)


def _say_that_there_is_no_gpu(device: str) -> None:
    import logging

    from detectron2.utils.logger import setup_logger

    setup_logger(name="maft")
    logging.getLogger("maft").warning("MODEL.DEVICE is %s, but there is no usable GPU: running on the CPU.", device)
