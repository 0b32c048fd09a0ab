#!/usr/bin/env python3
"""Run recorded cases of the official releases against this code and print a table of the differences."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from maft.errors import ToolParser, UserError, run_tool

# The recorded cases' adaptors are no part of the installed package: they lie beside the tests.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
if TYPE_CHECKING:
    from golden.runner import CaseResult


def parse_arguments() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folder of golden cases")
    parser.add_argument("--case", action="append", metavar="NAME", help="run only this case (may be repeated)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="default: cpu")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the results as JSON")
    return parser.parse_args()


def print_results(results: "list[CaseResult]") -> None:
    from rich.console import Console
    from rich.table import Table

    # A log file has no width of its own: Rich would squeeze the table into 80 columns there.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    table = Table("case", "tensors", "worst error", "tolerance", "result", "where")
    for result in results:
        colour = {"pass": "green", "fail": "red"}.get(result.status, "yellow")
        table.add_row(
            f"{result.system}/{result.name}",
            str(result.tensors),
            f"{result.error:.2e}",
            f"{result.tolerance:.2e}",
            f"[{colour}]{result.status}[/]",
            result.detail.splitlines()[-1] if result.detail else "",
        )
    console.print(table)
    for result in results:
        if result.status == "fail" and "\n" in result.detail:
            console.print(f"[red]{result.system}/{result.name}[/]\n{result.detail}", highlight=False, markup=True)


def main() -> int:
    arguments = parse_arguments()

    import torch
    from golden.runner import run_folder

    from maft.files import write_json_atomic

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no usable GPU; leave --device out.")
    results = [
        result
        for folder in arguments.folders
        for result in run_folder(folder, names=arguments.case, device=arguments.device)
    ]
    print_results(results)
    if arguments.json:
        write_json_atomic(arguments.json, [asdict(result) for result in results])
    failed = [result for result in results if result.status != "pass"]
    print(f"{len(results) - len(failed)} of {len(results)} cases pass")
    return 1 if failed else 0


if __name__ == "__main__":
    run_tool(main)
