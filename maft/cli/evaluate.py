"""Evaluate the weights that a config names on its DATASETS.TEST, or what an index keeps of a model on any dataset."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from maft.cli.train import add_run, run
from maft.errors import ToolParser

EXAMPLES = """examples:
  maft evaluate quickstart/maft MODEL.WEIGHTS output/quickstart/maft/model_final TEST.VISUALIZE 20
  maft evaluate quickstart/maft --resume                    the last checkpoint of a training
  maft evaluate --index pascal.index --dataset pascal_context_459_val --output output/pascal
                                                            other words for masks that were seen once
"""


def parser() -> ToolParser:
    tool = ToolParser(prog="maft evaluate", description=__doc__, epilog=EXAMPLES)
    # Of maft train, whose command lines thus work here.
    tool.add_argument("--eval-only", action="store_true", default=True, help="what this command does in any case")
    add_run(tool, "evaluate the last checkpoint in OUTPUT_DIR")
    index = tool.add_argument_group("what a model saw before", "without a config, a model or processes")
    index.add_argument("--index", type=Path, metavar="DIR", help="an index of the dataset's images, see maft index")
    index.add_argument("--dataset", metavar="NAME", help="whose classes are the words, and whose labels the truth")
    index.add_argument("--output", type=Path, metavar="DIR", help="where the results go (default: beside the index)")
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    tool = parser()
    arguments = tool.parse_intermixed_args(argv)
    if arguments.index is None:
        if arguments.dataset or arguments.output:
            tool.error("--dataset and --output are of --index: a config has DATASETS.TEST and OUTPUT_DIR")
        run(tool, argv)
        return
    if arguments.dataset is None:
        tool.error("--index needs --dataset: whose labels the masks are held against")
    if arguments.config_file or arguments.resume or len(arguments.opts) % 2:
        tool.error("--index has the config of its model, and is done in one go: leave config and --resume out")
    _evaluate_index(arguments)


def _evaluate_index(arguments: Namespace) -> None:
    from detectron2.utils.logger import setup_logger

    from maft.evaluation import evaluate_index, index_config
    from maft.files import held
    from maft.index.index import Index

    setup_logger(name="maft")
    index = Index(arguments.index)
    cfg = index_config(index, arguments.opts)
    output = arguments.output or arguments.index.with_name(f"{arguments.index.name}_evaluated")
    cfg.OUTPUT_DIR = str(output)
    cfg.freeze()
    with held(output):
        evaluate_index(cfg, index, arguments.dataset)
