"""Every command of the documentation runs, or is checked where it says why it cannot be run."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from documentation.pages import ROOT, blocks, needs_clone, pages
from documentation.running import PYTHON, SHELL, run_page

from maft.data.miniature import ensure_miniature

# Of the repository, what a clone has; the data and what is written are the reader's own.
_NOT_LINKED = {"datasets", "output", "site"}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A few images of the miniature world."""
    return ensure_miniature(tmp_path_factory.mktemp("documented"), {"train": 24, "val": 4})


def clone(folder: Path) -> Path:
    """A folder that looks like a clone, in which a reader may write without changing the repository."""
    folder.mkdir()
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.name not in _NOT_LINKED:
            (folder / entry.name).symlink_to(entry)
    (folder / "datasets").mkdir()
    for script in (ROOT / "datasets").glob("*.py"):
        (folder / "datasets" / script.name).symlink_to(script)
    return folder


@pytest.mark.parametrize("page", pages())
def test_page(page, world, tmp_path):
    here = clone(tmp_path / "maft") if needs_clone(page) else tmp_path / "here"
    shutil.copytree(world, here / "datasets/miniature")
    log = tmp_path / "log"
    environment = {
        "MAFT_STATE": str(tmp_path / "state"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        # What Python starts in the clone imports the package that is tested.
        "PYTHONPATH": str(ROOT),
    }
    status = run_page(page, here, environment, log)
    assert status == 0, log.read_text(errors="replace")[-6000:]


@pytest.mark.parametrize("page", pages())
def test_every_fence_names_its_language(page):
    bare = [block.place for block in blocks(page) if not block.language]
    assert not bare, "write ```bash, ```python, ```yaml or ```text"


@pytest.mark.parametrize("page", pages())
def test_yaml_blocks_are_yaml(page):
    for block in blocks(page):
        if block.language == "yaml":
            assert yaml.safe_load(block.text) is not None, block.place


@pytest.mark.parametrize("page", pages())
def test_marks_stand_above_what_they_mark(page):
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    marks = [n for n, line in enumerate(lines) if line.strip().startswith(("<!-- run", "<!-- not run"))]
    marked = [block for block in blocks(page) if block.reason or block.more]
    assert len(marks) == len(marked)
    assert all(block.language in (SHELL, PYTHON) for block in marked)
