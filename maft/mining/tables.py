"""Tables of region-noun pairs that somebody else made, as OVSeg's own training reads them, taken over into ours."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from maft.data.pairs import says_something
from maft.data.reading import inside
from maft.errors import UserError, first_line, shown
from maft.mining.folder import Pair, write_table

# How many of a table's bad rows an error names.
_SHOWN = 3


def import_table(table: Path, root: Path, *, prefix: str = "") -> list[Pair]:
    """Checks a table and writes it as ``pairs.tsv`` into the folder of its regions, which stay where they are.

    Args:
        table: text with a header that names at least filepath and title, separated by tabs or else by commas; fields
            may be quoted.
        root: the folder below which all regions lie.
        prefix: what the table's paths begin with and the paths from ``root`` do not.

    Returns:
        the pairs, in the table's order; their image is the region's file name without ending.

    Raises:
        UserError: the table cannot be read, rows of it are bad (the first ones are named), or there is a pairs.tsv.
    """
    output = root / "pairs.tsv"
    if os.path.lexists(output):
        raise UserError(f"{output} exists: remove it, or move it elsewhere, before another table takes its place.")
    pairs: list[Pair] = []
    problems: list[str] = []
    for line, file, title in _rows(table):
        try:
            pairs.append(_pair(root, file, title, prefix, table))
        except UserError as error:
            problems.append(f"line {line}: {str(error).removesuffix('.')}")
    if problems:
        raise UserError(
            f"{len(problems)} of {len(pairs) + len(problems)} rows of {table} cannot be used "
            f"({'; '.join(problems[:_SHOWN])}): correct or remove them, or give the folder of the regions and what "
            "stands before their paths."
        )
    if not pairs:
        raise UserError(f"Table {table} holds no pair: give one with rows below its header.")
    write_table(output, pairs)
    return pairs


def _pair(root: Path, file: str | None, title: str | None, prefix: str, table: Path) -> Pair:
    if not (file and file.strip() and title and says_something(title)):
        raise UserError("a row needs a filepath and a title")
    if any(mark in title for mark in "\t\r\n"):
        raise UserError(f"the title {shown(title)} is not one line without tabs")
    path = inside(root, file.removeprefix(prefix).lstrip("/") if prefix else file, table)
    if not os.path.isfile(path):
        raise UserError(f"the region {path} is missing")
    return Pair(path.relative_to(root).as_posix(), title.strip(), path.stem, None)


def _rows(table: Path) -> Iterator[tuple[int, str | None, str | None]]:
    """Line number, path and title of every row."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            separator = "\t" if "\t" in stream.readline() else ","
            stream.seek(0)
            reader = csv.DictReader(stream, delimiter=separator)
            columns = reader.fieldnames or []
            if not columns.count("filepath") == columns.count("title") == 1:
                raise UserError(
                    f"Table {table} has columns {', '.join(columns) or 'none'} and needs one filepath and one title, "
                    "separated by tabs or commas."
                )
            for row in reader:
                yield reader.line_num, row["filepath"], row["title"]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"Table of pairs {table} cannot be read ({first_line(error)}): give a text file with columns filepath and "
            "title."
        ) from error
