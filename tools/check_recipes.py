#!/usr/bin/env python3
"""Print, for every config, the official recipe beside ours, and end with 1 where one differs without saying so.

configs/quickstart is left out, which runs on the drawn miniature world, and configs/_base_, which has parts of configs.
"""

import argparse
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from maft.errors import ToolParser, UserError, run_tool

if TYPE_CHECKING:
    from recipes.comparison import Audit

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
LEFT_OUT = ("quickstart", "_base_")


def parse_arguments() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument("patterns", nargs="*", metavar="CONFIG", help="only these, such as 'maft/*' (default: all)")
    return parser.parse_args()


def config_names() -> list[str]:
    """The configs that follow a recipe, by path below ``configs/`` without the suffix."""
    files = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name not in LEFT_OUT)
    return [file.relative_to(CONFIGS).with_suffix("").as_posix() for file in files]


def print_audit(result: "Audit") -> None:
    from recipes.comparison import text
    from tabulate import tabulate

    print(f"\n{result.config}")
    if result.none:
        print(f"no official recipe: {result.none}")
        return
    sources = list(dict.fromkeys(row.source for row in result.rows))
    rows = [
        (row.fact, text(row.official), text(row.ours), row.verdict, f"[{sources.index(row.source) + 1}]")
        for row in result.rows
    ]
    print(tabulate(rows, headers=("", "official", "ours", "", "from"), tablefmt="simple", disable_numparse=True))
    print("\n".join(f"[{number}] {source}" for number, source in enumerate(sources, start=1)))


def main() -> int:
    arguments = parse_arguments()

    from recipes.comparison import audit, read_official, unmatched

    from maft.config import load_config

    names, recipes = config_names(), read_official()
    chosen = [name for name in names if not arguments.patterns or any(fnmatchcase(name, p) for p in arguments.patterns)]
    if not chosen:
        raise UserError(f"No config matches {' '.join(arguments.patterns)}: name it as in maft/maft_vitb16_*.")
    results = [audit(name, load_config(CONFIGS / f"{name}.yaml"), recipes) for name in chosen]
    for result in results:
        print_audit(result)
    problems = [f"{result.config}: {problem}" for result in results for problem in result.problems]
    if len(chosen) == len(names):
        problems += [f"official.yaml: no config matches {pattern}" for pattern in unmatched(names, recipes)]
    different = sum(row.differs for result in results for row in result.rows)
    unknown = sum(row.verdict == "not compared" for result in results for row in result.rows)
    print(
        f"\n{len(results)} configs, {different} differences from official recipes, {len(problems)} problems; "
        f"{unknown} values not compared, for no source states them"
    )
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    run_tool(main)
