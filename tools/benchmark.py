#!/usr/bin/env python3
"""Time this project's fast forms against the plain ones: ratios of one run, with their outputs compared.

With --against, whole pieces of work are done by this checkout and by another one in turn, on the same inputs and
weights.
"""

import argparse
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from maft.errors import ToolParser, UserError, run_tool

if TYPE_CHECKING:
    from benchmarks.measure import Comparison


def parse_arguments() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="all, whole, or some: a wrong name lists them")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="measure whole pieces of work in it as well")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: torch's own choice)")
    parser.add_argument("--repeats", type=int, default=3, help="passes over all forms; the fastest counts (default 3)")
    parser.add_argument("--plot", type=Path, metavar="OUT", help="also draw what scaling measures, as a PNG")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the results as JSON")
    return parser.parse_args()


def print_comparison(comparison: "Comparison") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "form", "time", "x time", "peak memory", "x memory", "difference",
        title=f"{comparison.benchmark}: {comparison.setting}",
    )  # fmt: skip
    for row in comparison.rows:
        table.add_row(
            row.form,
            f"{1000 * row.seconds:.1f} ms",
            f"{row.time_ratio:.2f}{'' if row.fast else ' TOO SLOW'}",
            "-" if row.peak_mib is None else f"{row.peak_mib:.0f} MiB",
            "-" if row.memory_ratio is None else f"{row.memory_ratio:.2f}",
            "-" if row.difference is None else f"{row.difference:.1e}{'' if row.same else ' TOO LARGE'}",
        )
    Console(width=130).print(table)


def main() -> int:
    arguments = parse_arguments()

    import torch
    from benchmarks.catalog import expanded, run_benchmark

    from maft.files import write_json_atomic

    if arguments.threads is not None:
        if arguments.threads < 1:
            raise UserError(f"--threads is {arguments.threads}, but at least one is needed.")
        torch.set_num_threads(arguments.threads)
    on_gpu = arguments.device.startswith("cuda") and torch.cuda.is_available()
    machine = {
        "device": torch.cuda.get_device_name(arguments.device) if on_gpu else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "float32 products": torch.get_float32_matmul_precision(),
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    names = expanded(arguments.names)
    if arguments.plot and "scaling" not in names:
        raise UserError("--plot draws what scaling measures: name scaling, too.")
    comparisons = []
    for name in names:
        for comparison in run_benchmark(name, arguments.device, arguments.repeats, arguments.against):
            print_comparison(comparison)
            comparisons.append(comparison)
    if arguments.json:
        write_json_atomic(arguments.json, {**machine, "comparisons": [asdict(entry) for entry in comparisons]})
    if arguments.plot:
        from benchmarks.scaling import draw

        draw([comparison for comparison in comparisons if comparison.benchmark == "scaling"], arguments.plot)
    rows = [row for comparison in comparisons for row in comparison.rows]
    for row in rows:
        if not row.same:
            print(f"outputs differ: {row.form}")
        if not row.fast:
            print(f"not as many times faster as it was than: {row.form}")
    return 0 if all(row.same and row.fast for row in rows) else 1


if __name__ == "__main__":
    run_tool(main)
