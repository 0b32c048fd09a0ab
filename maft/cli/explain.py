"""Explain a score: what is missing to 100 % mIoU, part by part, without a second look at the images.

Of an evaluation that kept an index (TEST.SAVE_INDEX True), or of an index that maft index --dataset made. Prints what
is lost to masks, names, the ensemble, overlapping masks and void, and writes explanation.html, a page that holds
everything itself, explanation.json and tables of classes, images and wrong names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maft.errors import ToolParser

if TYPE_CHECKING:
    from maft.evaluation.explain.explanation import Explanation, Parts

EXAMPLES = """examples:
  maft evaluate quickstart/maft MODEL.WEIGHTS output/quickstart/maft/model_final TEST.SAVE_INDEX True
  maft explain output/quickstart/maft

  maft index --dataset ade20k_150_val --model output/my_run/model_final --output ade.index
  maft explain ade.index --output explained
"""
# Classes that the table on the screen shows.
_CLASSES = 10


def parser() -> ToolParser:
    tool = ToolParser(prog="maft explain", description=__doc__, epilog=EXAMPLES)
    tool.add_argument("run", metavar="RUN", help="OUTPUT_DIR of an evaluation, its inference/<dataset>, or an index")
    tool.add_argument("--dataset", metavar="NAME", help="which dataset of the run, or the one an index is of")
    tool.add_argument("--output", type=Path, metavar="DIR", help="folder to write to (default: RUN's explanation/)")
    tool.add_argument("--worst", type=int, default=24, metavar="N", help="pictures of the worst masks (default: 24)")
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    tool = parser()
    arguments = tool.parse_args(argv)

    from maft.evaluation.explain.page import MOST_PICTURES, write_page
    from maft.evaluation.explain.sources import find_source

    if not 0 <= arguments.worst <= MOST_PICTURES:
        tool.error(f"argument --worst: {arguments.worst} does not lie in 0 to {MOST_PICTURES}")
    source = find_source(arguments.run, arguments.dataset)

    from maft.evaluation.explain.explaining import explain

    explanation = explain(source, worst=arguments.worst)
    output = arguments.output or source.output
    explanation.write(output)
    write_page(output / "explanation.html", explanation)
    print(described(explanation))
    print(
        f"\nThe page: {output / 'explanation.html'}; all numbers: {output / 'explanation.json'} and the .csv beside it"
    )


def described(explanation: Explanation) -> str:
    """The parts of the score in all, of seen and unseen classes, and of the classes that lose most."""
    from dataclasses import astuple

    from tabulate import tabulate

    from maft.evaluation.explain.sections import CAUSES

    def row(name: str, parts: Parts) -> list[object]:
        return [name, *astuple(parts)]

    rows = [row("in all", explanation.total)]
    rows += [row(f"{name} classes", parts) for name, parts in explanation.groups.items()]
    there = [(one.name, one.parts) for one in explanation.classes if one.parts is not None]
    rows += [row(name, parts) for name, parts in sorted(there, key=lambda pair: -pair[1].loss)[:_CLASSES]]
    table = tabulate(rows, headers=["", "loss", *CAUSES.values()], tablefmt="simple", floatfmt=".1f")
    facts = explanation.facts
    return f"{facts['dataset']}: {explanation.miou:.1f} % mIoU. Points that are missing to 100 %:\n{table}"
