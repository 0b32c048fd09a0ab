"""Pages that ``maft explain`` has written, read when the app opens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from maft.errors import UserError

# Pages hold their pictures.
_MOST_BYTES = 200 * 2**20
# Of the policy that a page states in its head.
_DIGEST = re.compile(rb"'sha256-[A-Za-z0-9+/]{43}='")


@dataclass(frozen=True)
class ExplanationPage:
    """One of them.

    Attributes:
        title: where it came from.
        page: its HTML, which needs nothing else.
    """

    title: str
    page: bytes

    @property
    def policy(self) -> str:
        """What its own head allows: its pictures, its styles, and the one script that it names by its hash."""
        stated = _DIGEST.search(self.page.partition(b"<title>")[0])
        scripts = stated.group().decode() if stated else "'none'"
        return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {scripts}"


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
