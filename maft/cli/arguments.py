"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from maft.errors import ToolParser

if TYPE_CHECKING:
    from maft.engine.launch import Processes


def add_config(tool: ToolParser, example: str) -> None:
    """A config, behind its flag or first of all words, and KEY VALUE pairs."""
    tool.add_argument(
        "--config-file", metavar="CONFIG", help="YAML file, or a name that maft configs lists; may also stand first"
    )
    tool.add_argument("opts", nargs="*", metavar="KEY VALUE", help=f"config overrides, such as {example}")


def config_and_overrides(tool: ToolParser, arguments: argparse.Namespace) -> tuple[str, list[str]]:
    """What `add_config` read.

    Raises:
        UserError: no config was given.
    """
    if arguments.config_file is not None:
        return arguments.config_file, arguments.opts
    if not arguments.opts:
        tool.error("name a config: a YAML file, or a name that maft configs lists")
    return arguments.opts[0], arguments.opts[1:]


def add_processes(tool: ToolParser) -> None:
    """How many processes compute, and where they meet."""
    tool.add_argument("--num-gpus", type=int, metavar="N", help="GPUs per machine (default: 1 if any); 0: the CPU")
    tool.add_argument("--num-processes", type=int, metavar="N", help="processes per machine on the CPU (default: 1)")
    tool.add_argument("--num-machines", type=int, default=1, metavar="N", help="number of machines")
    tool.add_argument("--machine-rank", type=int, default=0, metavar="R", help="which of them this one is, from 0")
    tool.add_argument("--dist-url", default="auto", metavar="URL", help="where processes meet: tcp://HOST:PORT")
    tool.add_argument(
        "--timeout", type=float, default=30, metavar="MINUTES", help="how long processes wait for others (default: 30)"
    )


def processes(arguments: argparse.Namespace, device: str) -> Processes:
    """What `add_processes` read.

    Args:
        device: ``MODEL.DEVICE``.
    """
    from maft.engine.launch import choose_processes

    return choose_processes(
        device=device,
        num_gpus=arguments.num_gpus,
        num_processes=arguments.num_processes,
        machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        url=arguments.dist_url,
        timeout=arguments.timeout,
    )
