"""The fenced blocks of the documentation and what their marks ask for; CONTRIBUTING.md describes the convention."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "MODEL_ZOO.md", "datasets/README.md")
CLONE = "<!-- in a clone -->"

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*) *$")
_MARK = re.compile(r"^ *<!-- (?:run with (?P<more>.+)|not run: (?P<reason>.+)) -->$")
_FILE = re.compile(r"^`(?P<name>[\w./-]+)`:$")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Args:
        page: path below the repository's root.
        line: of its first fence, from 1.
        language: what stands behind the fence; may be empty.
        text: between the fences, without their indentation.
        file: name of the file that the block is, or None.
        more: words added to each of its ``maft`` commands.
        reason: why it is not run, or None.
    """

    page: str
    line: int
    language: str
    text: str
    file: str | None
    more: tuple[str, ...]
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """All pages, by their paths below the root."""
    found = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("**/*.md"))
    return [*PAGES, *found]


def needs_clone(page: str) -> bool:
    return CLONE in (ROOT / page).read_text(encoding="utf-8").splitlines()[:2]


def blocks(page: str, text: str | None = None) -> Iterator[Block]:
    """The blocks of a page in their order.

    Args:
        page: path below the root, which names the blocks.
        text: of the page; default: that of the file.
    """
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines() if text is None else text.splitlines()
    start = 0
    while start < len(lines):
        fence = _FENCE.match(lines[start])
        if fence is None:
            start += 1
            continue
        indent = fence["indent"]
        end = next((n for n in range(start + 1, len(lines)) if lines[n] == f"{indent}```"), None)
        assert end is not None, f"{page}:{start + 1}: the block has no end"
        above = [line.strip() for line in lines[max(start - 3, 0) : start]]
        mark = _MARK.match(above[-1]) if above else None
        before = [line for line in above if line]
        # A mark is for commands: a file that is named above one is not the block.
        name = _FILE.match(before[-1]) if before else None
        yield Block(
            page,
            start + 1,
            fence["language"],
            "".join(line.removeprefix(indent) + "\n" for line in lines[start + 1 : end]),
            name["name"] if name else None,
            tuple(shlex.split(mark["more"])) if mark and mark["more"] else (),
            mark["reason"] if mark else None,
        )
        start = end + 1
