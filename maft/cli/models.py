"""List the released models, or fetch one and print the folder where it lies.

They come from their authors' pages, are converted once and kept below MAFT_CACHE (default: maft in the user's cache
folder). What is printed is the folder alone, so that a command may take it:

  maft evaluate maft/maft_vitb16_coco-stuff-171 MODEL.WEIGHTS "$(maft models maft-vitb16)"
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from maft.errors import ToolParser


def parser() -> ToolParser:
    tool = ToolParser(prog="maft models", description=__doc__)
    tool.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="fetch this one; may end in #sha256= and its file's, or be ORG/NAME of the hub",
    )
    tool.add_argument("--revision", metavar="R", help="branch, tag or commit of ORG/NAME (default: the newest)")
    tool.add_argument("--json", action="store_true", help="the list as JSON, with links and configs")
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    if arguments.name:
        from maft.zoo import MINIATURE, pretrained

        folder = pretrained(arguments.name, revision=arguments.revision)
        name = arguments.name.partition("#")[0]
        words = "" if name == MINIATURE else " --words cat sofa"
        print(f"{name} is ready: maft predict IMG --model {name}{words}", file=sys.stderr)
        print(folder)
        return
    rows = _rows()
    if arguments.json:
        import json

        print(json.dumps(rows, indent=2))
        return
    from tabulate import tabulate

    columns = ("name", "reproduces", "licence of the weights", "size", "here")
    shown = [
        [row["name"], row["reproduces"], row["licence"], row["size"], "yes" if row["folder"] else ""] for row in rows
    ]
    print(tabulate(shown, columns, tablefmt="simple", maxcolwidths=[None, 48, 18, None, None]))
    by_hand = ", ".join(row["name"] for row in rows if not row["automatic"])
    print(
        "\nmaft models NAME fetches one and prints its folder. miniature is shipped: it knows 24 drawn things and "
        f"nothing of photographs.\nNot fetched automatically, maft models NAME says what to do:\n  {by_hand}."
    )


def _rows() -> list[dict[str, Any]]:
    from maft.config_files import read_config_file
    from maft.packaged import config_file
    from maft.zoo import MINIATURE, pretrained
    from maft.zoo.cache import folder_of, is_here
    from maft.zoo.table import entries

    shipped = pretrained(MINIATURE)
    rows: list[dict[str, Any]] = [
        {
            "name": MINIATURE,
            "reproduces": "make demo: the miniature world",
            "licence": "Apache-2.0",
            "size": _size(shipped),
            "folder": str(shipped),
            "automatic": True,
        }
    ]
    for row in entries().values():
        folder = folder_of(row) if is_here(row) else None
        test = read_config_file(config_file(row.config)).get("TEST", {}) if row.config else {}
        changed = dict(zip(row.overrides[::2], row.overrides[1::2]))
        rows.append(
            {
                "name": row.name,
                "reproduces": changed.get("TEST.REPRODUCES") or test.get("REPRODUCES", ""),
                "licence": row.licence,
                "size": _size(folder) if folder else row.size,
                "folder": str(folder) if folder else None,
                "automatic": bool(row.file),
                "file": row.file,
                "links": list(row.links),
                "stated_in": row.stated_in,
                "config": row.config,
                "overrides": list(row.overrides),
            }
        )
    return rows


def _size(folder: Any) -> str:
    return f"{(folder / 'model.safetensors').stat().st_size / 1e6:,.1f} MB"
