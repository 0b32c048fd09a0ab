#!/usr/bin/env python3
"""Take over a ready table of region-noun pairs, such as OVSeg's csv files, to fine-tune CLIP on."""

import argparse
from pathlib import Path

from maft.errors import ToolParser, run_tool
from maft.mining.folder import statistics
from maft.mining.tables import import_table

EXAMPLES = """example:
  tools/import_pairs.py pairs.csv --regions /data/ovseg/regions --prefix /home/somebody/regions/

Train on the result with DATASETS.TRAIN '["pairs:/data/ovseg/regions/pairs.tsv"]', and with INPUT.REGIONS.MASK colour
where the regions have no alpha channel: OVSeg's own files mark the background by its colour.
"""


def parse_arguments() -> argparse.Namespace:
    parser = ToolParser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("table", type=Path, metavar="TABLE", help="columns filepath and title, tabs or commas between")
    parser.add_argument("--regions", required=True, type=Path, metavar="DIR", help="folder of the regions")
    parser.add_argument("--prefix", default="", metavar="TEXT", help="what the table's paths have before those in DIR")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    pairs = import_table(arguments.table, arguments.regions, prefix=arguments.prefix)
    counts = statistics(pairs, len({pair.image for pair in pairs}))
    print(
        f"{counts['pairs']} pairs of {counts['regions']} regions and {counts['unique_nouns']} nouns: "
        f"{arguments.regions / 'pairs.tsv'}"
    )


if __name__ == "__main__":
    run_tool(main)
