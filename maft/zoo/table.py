"""The table of released checkpoints: where their authors publish them, and the config that each belongs to."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from maft.errors import UserError, closest


@dataclass(frozen=True)
class Entry:
    """One released checkpoint.

    Attributes:
        name: what it is called here.
        links: https pages or files, as the authors state them.
        stated_in: where they do.
        licence: of the weights, as far as the authors state one.
        file: its file name; empty where the links lead to several files, which nobody can fetch automatically.
        config: name of the packaged config that describes the model.
        overrides: what the released weights need beside it, KEY VALUE ....
        size: of the file in words, where a source states it.
        sha256: of the file, where its authors publish it.
    """

    name: str
    links: tuple[str, ...]
    stated_in: str
    licence: str
    file: str = ""
    config: str = ""
    overrides: tuple[str, ...] = ()
    size: str = ""
    sha256: str = ""


@cache
def entries() -> dict[str, Entry]:
    """The table, by name."""
    table = TypeAdapter(tuple[Entry, ...]).validate_json(Path(__file__).with_name("models.json").read_bytes())
    return {entry.name: entry for entry in table}


def entry(name: str) -> Entry:
    """One row of the table.

    Raises:
        UserError: there is none of this name.
    """
    if name not in entries():
        raise UserError(
            f"There is no released model {name!r}: choose one that maft models lists, or give a folder or a hub id, "
            f"org/name.{closest(name, entries())}"
        )
    return entries()[name]
