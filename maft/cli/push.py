"""Publish a trained model on the Hugging Face hub: weights, config, and a card with the last results.

Log in first with hf auth login. Others then use it by its id: maft predict photo.jpg --model ORG/NAME --words cat
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maft.errors import ToolParser


def parser() -> ToolParser:
    tool = ToolParser(prog="maft push", description=__doc__)
    tool.add_argument(
        "folder", type=Path, metavar="FOLDER", help="model_final of a training, or what maft convert wrote"
    )
    tool.add_argument("repository", metavar="ORG/NAME", help="id on the hub; made where there is none")
    tool.add_argument(
        "--licence", default="", metavar="ID", help="licence of the weights, as the hub calls it: apache-2.0, mit ..."
    )
    tool.add_argument("--private", action="store_true", help="a repository that is made is seen by its owners alone")
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)

    from maft.zoo.publishing import push_to_hub

    print(push_to_hub(arguments.folder, arguments.repository, licence=arguments.licence, private=arguments.private))
