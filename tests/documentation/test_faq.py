"""What the questions and answers quote is what the program says."""

import ast
import re

import pytest
from documentation.pages import ROOT

QUOTES = sorted(set(re.findall(r'"((?:[^"`\n]|\n(?!\n)){15,}?)"', (ROOT / "docs/faq.md").read_text(encoding="utf-8"))))


def written(node):
    """The text of a string of the source, with dots in the places of values."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(value.value if isinstance(value, ast.Constant) else "…" for value in node.values)
    return ""


@pytest.fixture(scope="module")
def sentences():
    found = []
    for file in (ROOT / "maft").rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found += [text.replace("%s", "…") for node in ast.walk(tree) if (text := written(node))]
    return "\n".join(found)


def test_there_are_quotes():
    assert len(QUOTES) > 20


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quote_is_what_the_program_says(quote, sentences):
    pieces = [piece.strip() for piece in " ".join(quote.split()).split("…")]
    assert re.search(r"[^\n]*".join(map(re.escape, pieces)), sentences), quote
