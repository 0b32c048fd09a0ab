"""Fixtures of the data tests: running a preparation script as its user would, and killing it."""

import hashlib
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPTS = Path(__file__).parents[2] / "datasets"

Prepare = Callable[..., str]
Tree = Callable[[], dict[str, tuple[str, int]]]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of all datasets."""
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    return folder


@pytest.fixture
def prepare(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Prepare:
    """``prepare("voc", "--splits", "val")`` runs the script, expects ``status`` and returns what it printed."""

    def call(name: str, *arguments: str, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", [f"prepare_{name}.py", "--workers", "1", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(SCRIPTS / f"prepare_{name}.py"), run_name="__main__")
        printed = capsys.readouterr()
        assert stop.value.code == status, printed.err
        return printed.out if status == 0 else printed.err

    return call


@pytest.fixture
def tree(root: Path) -> Tree:
    """Path -> (content, time of change) of every file below the root but the preparations' locks."""
    return lambda: {
        str(path.relative_to(root)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.fixture
def kill_and_finish(root: Path, prepare: Prepare, tree: Tree) -> Callable[..., str]:
    """Kills a script (SIGKILL) in the middle of its second image, then lets two further runs follow.

    The first of them must keep what was finished and remove what was not, the second must change nothing. Returns
    what the first printed.
    """

    def check(name: str, *arguments: str) -> str:
        before = tree()
        child = os.fork()
        if child == 0:
            _die_while_saving(2)
            prepare(name, *arguments)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        killed = {path: state for path, state in tree().items() if path not in before}
        finished = {path: state for path, state in killed.items() if ".tmp" not in path}
        assert len([path for path in finished if not path.endswith(".json")]) == 1
        assert len(killed) == len(finished) + 1, "the half file is there"
        printed = prepare(name, *arguments)
        after = tree()
        assert not [path for path in after if ".tmp" in path]
        assert finished.items() <= after.items() and before.items() <= after.items()
        assert prepare(name, *arguments) == printed
        assert tree() == after
        return printed

    return check


def _die_while_saving(number: int) -> None:
    save = Image.Image.save
    calls = 0

    def dying(self: Image.Image, target: str | Path, *arguments: object, **options: object) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            Path(target).write_bytes(b"half a file")
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, target, *arguments, **options)

    Image.Image.save = dying


@pytest.fixture
def write_map(root: Path) -> Callable[..., None]:
    """Saves an array as an image below the root, folders included."""

    def write(path: str, values: np.ndarray, **options: object) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(root / path, **options)

    return write


@pytest.fixture
def read_map(root: Path) -> Callable[[str], np.ndarray]:
    """An image below the root as an array."""
    return lambda path: np.asarray(Image.open(root / path))
