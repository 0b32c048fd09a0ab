"""List the packaged configs and what they reproduce, or print the path of one.

Wherever a config is asked for, its name does: maft train quickstart/maft. To change one, begin a file of your own with
_BASE_: NAME.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from maft.errors import ToolParser, UserError, closest

# Of the sentence that says what a config is; what follows is how to call it.
_END = re.compile(r"\.\s+|\n(?=[A-Z])|:\s+--eval-only")


def parser() -> ToolParser:
    tool = ToolParser(prog="maft configs", description=__doc__)
    tool.add_argument("name", nargs="?", metavar="NAME", help="print the path of this one, or list those of a folder")
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)

    from maft.packaged import config_names, configs, packaged_config

    names = config_names()
    if arguments.name and (file := packaged_config(arguments.name)):
        print(file)
        return
    listed = [name for name in names if not arguments.name or name.startswith(f"{arguments.name.rstrip('/')}/")]
    if not listed:
        folders = {name.split("/")[0] for name in names}
        raise UserError(
            f"No packaged config is called {arguments.name!r}, and no folder of them: maft configs lists all."
            f"{closest(arguments.name, [*names, *folders])}"
        )
    for name in listed:
        print(f"{name}\n    {describe(configs() / f'{name}.yaml')}")


def describe(file: Path) -> str:
    """The first sentence of a config's own comment, and the published numbers that it expects, in one line."""
    from maft.config_files import read_config_file

    lines = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    comment = "\n".join(line.lstrip("# ") for line in lines)
    sentence = " ".join(_END.split(comment)[0].rstrip(".").split())
    test = read_config_file(file).get("TEST", {})
    first: dict[str, str] = {}
    for dataset, metric, value in test.get("EXPECTED", []):
        first.setdefault(dataset, f"{dataset} {value:g} {metric}")
    source = test.get("REPRODUCES", "")
    return f"{sentence}. Reproduces {source}: {'; '.join(first.values())}." if source and first else f"{sentence}."
