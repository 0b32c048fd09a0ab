"""Tables in pages of the documentation, put there by the command that measures them."""

from __future__ import annotations

from pathlib import Path

from maft.errors import UserError
from maft.files import write_text_atomic


def put_table(page: Path, name: str, text: str) -> None:
    """Replaces what stands between ``<!-- table: NAME -->`` and ``<!-- end of the table -->``.

    Raises:
        UserError: the page does not exist, or has no such place.
    """
    begin, end = f"<!-- table: {name} -->\n", "<!-- end of the table -->"
    if not page.is_file():
        raise UserError(f"The page {page} does not exist: check its path.")
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise UserError(f"{page} has no place for the table: write {begin.strip()} and {end} where it belongs.")
    write_text_atomic(page, f"{before}{begin}\n{text}\n\n{end}{after}")
