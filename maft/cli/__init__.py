"""The console script ``maft``: one module of this package for each command.

A module has ``parser()``, which imports nothing heavy so that ``--help`` answers at once, and ``main(argv)``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from maft.errors import ToolParser, UserError, closest, run_tool

COMMANDS = {
    "predict": "name what is in your images, with your words",
    "index": "look at images once, to ask for any words afterwards",
    "ask": "find masks, labels and areas in what was looked at, with any words",
    "app": "the same in a browser",
    "demo": "frozen CLIP against MAFT on drawn scenes, in minutes on a CPU",
    "train": "train from a config, and evaluate at the end",
    "evaluate": "evaluate the weights that a config names",
    "explain": "what a score loses to masks, names, ensemble, overlapping masks and void",
    "compare": "whether two evaluations differ by more than noise",
    "configs": "list the packaged configs and what they reproduce",
    "models": "list the released models, and fetch one",
    "vocabulary": "show a model what you mean: classes with example masks in a file",
    "calibrate": "measure when a model should answer unknown, with a bound on false alarms",
    "push": "publish a trained model on the hub",
    "prepare": "bring a downloaded dataset into the form that is read here",
    "check": "open every file of a dataset and list what is wrong",
    "convert": "write an official checkpoint as one of ours",
    "export": "write a model for other runtimes: ONNX, torch.export",
    "mine": "find pairs of masks and nouns in captioned images",
    "pairs": "take over a ready table of such pairs",
    "components": "list proposers, mask classifiers, losses and ensembles with their options",
    "towers": "list the CLIPs that can be used",
    "doctor": "what is installed, what is missing; --fix installs Detectron2",
}


def parser() -> ToolParser:
    """What ``maft`` itself understands; the arguments of a command are its own module's."""
    lines = [f"  {name:<12}{text}" for name, text in COMMANDS.items()]
    tool = ToolParser(
        prog="maft",
        usage="maft COMMAND ...",
        description="Mask-based open-vocabulary segmentation: train, evaluate and use it.",
        epilog="\n".join(["commands:", *lines, "", "maft COMMAND --help says more about one."]),
    )
    tool.add_argument("--version", action="store_true", help="print the version and exit")
    return tool


def run(argv: Sequence[str] | None = None) -> int | None:
    """Runs ``maft`` with its arguments, those of the process by default.

    Raises:
        UserError: there is no such command, or what the command raises.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0].startswith("-"):
        if parser().parse_args(arguments).version:
            from maft import __version__

            print(__version__)
        else:
            parser().print_help()
        return None
    name = arguments[0]
    if name not in COMMANDS:
        raise UserError(f"There is no command {name!r}: maft --help lists them.{closest(name, COMMANDS)}")
    return importlib.import_module(f"{__name__}.{name}").main(arguments[1:])


def main() -> NoReturn:
    """The console script; ends the process."""
    run_tool(run)
