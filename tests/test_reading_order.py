"""The reading order names files and definitions that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/reading.md").read_text(encoding="utf-8")
QUOTED = sorted(set(re.findall(r"`([^`]+)`", TEXT)))
CODE = "\n".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "maft").rglob("*.py")))


@pytest.mark.parametrize("path", [word for word in QUOTED if "/" in word])
def test_a_path(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("name", [word for word in QUOTED if "/" not in word])
def test_a_name(name):
    assert re.search(rf"(def|class) \w*{name}\b", CODE), f"nothing called {name} is defined in maft/"
