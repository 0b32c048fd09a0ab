"""Take over a ready table of region-noun pairs, such as OVSeg's csv files, to fine-tune CLIP on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maft.errors import ToolParser

EXAMPLES = """example:
  maft pairs pairs.csv --regions /data/ovseg/regions --prefix /home/somebody/regions/

Train on the result with DATASETS.TRAIN '["pairs:/data/ovseg/regions/pairs.tsv"]', and with INPUT.REGIONS.MASK colour
where the regions have no alpha channel: OVSeg's own files mark the background by its colour.
"""


def parser() -> ToolParser:
    tool = ToolParser(prog="maft pairs", description=__doc__, epilog=EXAMPLES)
    tool.add_argument("table", type=Path, metavar="TABLE", help="columns filepath and title, tabs or commas between")
    tool.add_argument("--regions", required=True, type=Path, metavar="DIR", help="folder of the regions")
    tool.add_argument("--prefix", default="", metavar="TEXT", help="what the table's paths have before those in DIR")
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)

    from maft.mining.folder import statistics
    from maft.mining.tables import import_table

    pairs = import_table(arguments.table, arguments.regions, prefix=arguments.prefix)
    counts = statistics(pairs, len({pair.image for pair in pairs}))
    print(
        f"{counts['pairs']} pairs of {counts['regions']} regions and {counts['unique_nouns']} nouns: "
        f"{arguments.regions / 'pairs.tsv'}"
    )
