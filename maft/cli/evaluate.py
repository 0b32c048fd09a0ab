"""Evaluate the weights that a config names on its DATASETS.TEST."""

from __future__ import annotations

from collections.abc import Sequence

from maft.cli.train import add_run, run
from maft.errors import ToolParser

EXAMPLES = """examples:
  maft evaluate quickstart/maft MODEL.WEIGHTS output/quickstart/maft/model_final TEST.VISUALIZE 20
  maft evaluate quickstart/maft --resume                    the last checkpoint of a training
"""


def parser() -> ToolParser:
    tool = ToolParser(prog="maft evaluate", description=__doc__, epilog=EXAMPLES)
    # Of maft train, whose command lines thus work here.
    tool.add_argument("--eval-only", action="store_true", default=True, help="what this command does in any case")
    add_run(tool, "evaluate the last checkpoint in OUTPUT_DIR")
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    run(parser(), argv)
