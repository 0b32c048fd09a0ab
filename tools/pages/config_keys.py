"""The reference of config keys: ``maft/defaults.yaml`` with its comments, as tables."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?: (?P<value>.*))?$")
# A list with one item a line.
_LIST = re.compile(r":\n(?: *- .*\n)+")
_ITEM = re.compile(r"- (.*)")
_HEADER = """# Config keys

The keys that all parts share, with their defaults, as `maft/defaults.yaml` has them: those that this project adds to
Detectron2's, and those of Detectron2's whose default differs here. Options of a proposer, classifier, loss or ensemble
are on the page [Components](components.md). A key is set in a YAML file, or behind a command: `SOLVER.MAX_ITER 100`.
"""


def config_keys_page(defaults: str) -> str:
    """The page in Markdown.

    Args:
        defaults: text of ``maft/defaults.yaml``: nested keys of two spaces, a comment above what it explains.
    """
    rows: dict[str, list[str]] = {}
    about: dict[str, str] = {}
    for key, value, comment in _keys(defaults):
        if value is None:
            about[key] = comment
            continue
        # Keys without a node of their own stand in a section of all such keys.
        node = key.rpartition(".")[0] or "General"
        rows.setdefault(node, []).append(f"| `{key}` | `{value}` | {comment} |")
    lines = [_HEADER]
    for node in rows:
        lines += [f"\n## {node}\n", *([f"{about[node]}\n"] if about.get(node) else []), *_TABLE, *rows[node]]
    return "\n".join(lines) + "\n"


_TABLE = ("| key | default | meaning |", "|---|---|---|")


def _keys(text: str) -> Iterator[tuple[str, str | None, str]]:
    """Dotted key, default (None for a node) and comment of every line of the file."""
    outer: list[str] = []
    comments: list[str] = []
    text = _LIST.sub(lambda found: f": [{', '.join(_ITEM.findall(found[0]))}]\n", text)
    for line in text.splitlines():
        match = _LINE.match(line)
        if line.lstrip().startswith("#"):
            comments.append(line.lstrip(" #"))
        elif match is None:
            # An empty line ends a comment that belongs to no key.
            comments = []
        else:
            outer = [*outer[: len(match["indent"]) // 2], match["key"]]
            comment = " ".join(comments).replace("|", "\\|")
            yield ".".join(outer), match["value"], comment
            comments = []
