"""Pages that ``maft explain`` has written, read when the app opens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maft.errors import UserError

# Pages hold their pictures.
_MOST_BYTES = 200 * 2**20


@dataclass(frozen=True)
class ExplanationPage:
    """One of them.

    Attributes:
        title: where it came from.
        page: its HTML, which needs nothing else.
    """

    title: str
    page: bytes


def explanation_page(path: str) -> ExplanationPage:
    """The page of a folder that ``maft explain`` wrote, or of its HTML file.

    Raises:
        UserError: there is none, or it is far too large.
    """
    file = Path(path)
    if file.is_dir():
        pages = sorted(file.glob("*.html"))
        if len(pages) != 1:
            raise UserError(f"--explanation {path} has {len(pages)} HTML files: name the one of maft explain.")
        (file,) = pages
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise UserError(f"--explanation {path} has more than {_MOST_BYTES >> 20} MB: no page of maft explain has.")
        data = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"--explanation {path} cannot be read ({error.strerror}): give the folder of maft explain."
        ) from error
    return ExplanationPage(path, data)
