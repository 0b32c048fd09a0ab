"""Watch the claim of MAFT's paper come true: frozen CLIP against MAFT on drawn scenes, in minutes on a CPU.

Draws the miniature world (about 100 MB) into DETECTRON2_DATASETS, default ./datasets, unless it is there; then trains,
evaluates, and writes a table, loss curves, pictures and the trained model. Repeated, it keeps what is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maft.errors import ToolParser, UserError


def parser() -> ToolParser:
    tool = ToolParser(prog="maft demo", description=__doc__)
    tool.add_argument("--output", type=Path, default=Path("output/demo"), metavar="DIR", help="default: %(default)s")
    tool.add_argument("--iterations", type=int, metavar="N", help="of MAFT's training; fewer are quicker, and worse")
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    if arguments.iterations is not None and arguments.iterations < 1:
        raise UserError(f"--iterations {arguments.iterations} is too small.")

    from maft.reproduction.miniature import demo

    table = demo(arguments.output, arguments.iterations)
    print(f"\n{table}\n\nEverything is in {arguments.output}: table.json, table.md, pictures, one folder a run.")
