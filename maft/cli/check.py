"""Open every file of a dataset, count its labels, list what is wrong, and draw a contact sheet.

NAME is a dataset of the catalogue (coco_stuff_val), one of its aliases, or folder:/path/to/your/data. The exit status
is 1 when anything is wrong.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from maft.errors import ToolParser, UserError


def parser() -> ToolParser:
    tool = ToolParser(prog="maft check", description=__doc__)
    tool.add_argument("name", metavar="NAME")
    tool.add_argument("--sheet", type=Path, metavar="PNG", help="contact sheet (default: check_<name>.png)")
    tool.add_argument("--pictures", type=int, default=6, help="overlays on the sheet, 0 for none (default 6)")
    tool.add_argument("--all", action="store_true", help="list every problem instead of the first 10 of a kind")
    tool.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")
    return tool


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)

    from maft.cli.dataset_report import draw_sheet, inputs, print_report
    from maft.data.checking import check_dataset
    from maft.data.folder import IMAGE_SUFFIXES
    from maft.data.outputs import check_outputs

    # File names need not be text.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers} is too small.")
    if arguments.pictures < 0:
        raise UserError(f"--pictures {arguments.pictures} is too small.")
    stem = "".join(letter if letter.isalnum() else "_" for letter in arguments.name.rstrip("/").split("/")[-1])
    sheet = arguments.sheet or Path(f"check_{stem}.png")
    if sheet.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"--sheet {sheet} does not end in {', '.join(IMAGE_SUFFIXES)}: give the name of a picture.")
    if arguments.pictures:
        check_outputs([sheet], inputs(arguments.name), "--sheet")
    report = check_dataset(arguments.name, workers=arguments.workers)
    print_report(report, arguments.all)
    if arguments.pictures and report.good:
        draw_sheet(report, arguments.pictures, sheet)
    print(f"\n{len(report.problems)} problems" if report.problems else "\nnothing is wrong")
    return 1 if report.problems else 0
