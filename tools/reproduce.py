#!/usr/bin/env python3
"""Repeat the experiments on the miniature world.

demo         as maft demo: frozen CLIP against MAFT, one seed, with pictures and loss curves (a few minutes)
classifiers  every mask classifier side by side, on proposals and on true masks, with what an image costs
miniature    what the parts of MAFT and the stages of OVSeg are worth, on proposals and on ground-truth masks
none_of_these  whether alpha bounds false alarms, what that costs, and whether confidence is a probability
show_once    what one, three or five examples of each unseen class are worth, with every classifier
tune         how the hyper-parameters were chosen: the same scores on held-out seen classes
tune_show_once  how the constants of examples were chosen: what they are worth on held-out seen classes

Finished runs are kept and interrupted ones continued when the command is repeated.
"""

import argparse
from pathlib import Path

from maft.errors import ToolParser, run_tool


def parse_arguments() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        "experiment",
        choices=["demo", "classifiers", "miniature", "none_of_these", "show_once", "tune", "tune_show_once"],
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: output/<experiment>")
    parser.add_argument("--methods", nargs="+", default=[], metavar="WORD", help="for all but demo: only rows named so")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[1, 2, 3],
        metavar="N",
        help="for all but demo and those that tune",
    )
    parser.add_argument(
        "--pages",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="Markdown files to put the table into, between <!-- table: EXPERIMENT --> and <!-- end of the table -->",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()

    from maft.reproduction.classifiers import classifier_rows, compare
    from maft.reproduction.methods import TABLE, TUNING_TABLE, choose
    from maft.reproduction.miniature import demo, reproduce, tune
    from maft.reproduction.none_of_these import MODELS, none_of_these
    from maft.reproduction.pages import put_table
    from maft.reproduction.show_once import methods, show_once
    from maft.reproduction.show_once_tuning import tune_show_once, tuning_methods

    output = arguments.output or Path("output") / arguments.experiment
    if arguments.experiment == "classifiers":
        table = compare(output, choose(classifier_rows(), arguments.methods), arguments.seeds)
    elif arguments.experiment == "miniature":
        table = reproduce(output, choose(TABLE, arguments.methods), arguments.seeds)
    elif arguments.experiment == "none_of_these":
        table = none_of_these(output, choose(MODELS, arguments.methods), arguments.seeds)
    elif arguments.experiment == "show_once":
        table = show_once(output, choose(methods(), arguments.methods), arguments.seeds)
    elif arguments.experiment == "tune":
        table = tune(output, choose(TUNING_TABLE, arguments.methods))
    elif arguments.experiment == "tune_show_once":
        table = tune_show_once(output, choose(tuning_methods(), arguments.methods))
    else:
        table = demo(output)
    for page in arguments.pages:
        put_table(page, arguments.experiment, table)
    print(f"\n{table}\n\nEverything is in {output}: table.json, table.md, one folder a run.")


if __name__ == "__main__":
    run_tool(main)
