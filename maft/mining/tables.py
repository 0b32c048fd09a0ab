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
        table: text with a header that names at least filepath and title, separated by tabs, and then quotes have no
            meaning, or else by commas, and then fields may be quoted.
        root: the folder below which all regions lie.
        prefix: what the table's paths begin with and the paths from ``root`` do not.

    Returns:
        the pairs, in the table's order; their image is the region's file name without ending.

    Raises:
        UserError: the table cannot be read, rows of it are bad (the first ones are named), the folder does not exist
            or has a pairs.tsv.
    """
    if not root.is_dir():
        raise UserError(f"Folder of regions {root} does not exist: give the one that the table's regions lie in.")
    # Absolute paths begin with the folder as it was given, or with what it is once links and dots are resolved.
    given, root = f"{root.absolute()}/", root.resolve()
    output = root / "pairs.tsv"
    if os.path.lexists(output):
        raise UserError(f"{output} exists: remove it, or move it elsewhere, before another table takes its place.")
    pairs: list[Pair] = []
    problems: list[str] = []
    (_, columns), *rows = _rows(table)
    for line, row in rows:
        try:
            if len(row) != len(columns):
                raise UserError(
                    f"it has {len(row)} fields, the header has {len(columns)}: where commas separate, put a title that "
                    "has some in double quotes"
                )
            fields = dict(zip(columns, row))
            file = fields["filepath"].removeprefix(prefix or given)
            pairs.append(_pair(root, file.lstrip("/") if prefix else file, fields["title"], table))
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


def _pair(root: Path, file: str, title: str, table: Path) -> Pair:
    if not file.strip() or not says_something(title):
        raise UserError("a row needs a filepath and a title")
    for kind, text in (("file name", file), ("title", title)):
        if any(mark in text for mark in "\t\r\n"):
            raise UserError(f"the {kind} {shown(text)} is not one line without tabs")
    path = inside(root, file, table)
    if not os.path.isfile(path):
        raise UserError(f"the region {path} is missing")
    return Pair(path.relative_to(root).as_posix(), title.strip(), path.stem, None)


def _rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of the header and of every row."""
    line = 0
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            tabs = "\t" in stream.readline()
            stream.seek(0)
            # As `read_pairs` reads tabs; strict: a quote that ends within a field is refused, not dropped.
            reader = csv.reader(
                stream,
                delimiter="\t" if tabs else ",",
                quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
                strict=True,
            )
            columns = next(reader, [])
            if not columns.count("filepath") == columns.count("title") == 1:
                raise UserError(
                    f"Table {table} has columns {', '.join(columns) or 'none'} and needs one filepath and one title, "
                    f"separated by tabs or commas{': convert its semicolons' if ';' in ''.join(columns) else ''}."
                )
            line = 1
            yield line, columns
            for row in reader:
                line = reader.line_num
                if row:
                    yield line, row
    except (OSError, ValueError, csv.Error) as error:
        place = f"line {line + 1}: " if line else ""
        raise UserError(
            f"Table of pairs {table} cannot be read ({place}{first_line(error)}): give a text file with columns "
            "filepath and title."
        ) from error
