#!/usr/bin/env python3
"""Repeat the experiments on the miniature world.

demo       as maft demo: frozen CLIP against MAFT, one seed, with pictures and loss curves (a few minutes)
miniature  the README's whole table: every method, three seeds, on proposals and on ground-truth masks
tune       how the hyper-parameters were chosen: the same scores on held-out seen classes

Finished runs are kept and interrupted ones continued when the command is repeated.
"""

import argparse
from pathlib import Path

from maft.errors import ToolParser, run_tool


def parse_arguments() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument("experiment", choices=["demo", "miniature", "tune"])
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: output/<experiment>")
    parser.add_argument(
        "--methods", nargs="+", default=[], metavar="WORD", help="for miniature and tune: only rows named so"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="for miniature")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()

    from maft.reproduction.methods import TABLE, TUNING_TABLE, choose
    from maft.reproduction.miniature import demo, reproduce, tune

    output = arguments.output or Path("output") / arguments.experiment
    if arguments.experiment == "miniature":
        table = reproduce(output, choose(TABLE, arguments.methods), arguments.seeds)
    elif arguments.experiment == "tune":
        table = tune(output, choose(TUNING_TABLE, arguments.methods))
    else:
        table = demo(output)
    print(f"\n{table}\n\nEverything is in {output}: table.json, table.md, one folder a run.")


if __name__ == "__main__":
    run_tool(main)
