"""CONTRIBUTING's recipes work as they are written, outside the repository, with one process and with two."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from maft.data.miniature import ensure_miniature

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`(my_seg/[\w.]+)`:\n\n```\w+\n(.*?)```", TEXT, re.DOTALL))
COMMANDS = re.findall(r"^\.venv/bin/python (.*\.\./my_seg/.*)$", TEXT, re.MULTILINE)
TRAININGS = [command for command in COMMANDS if "train_net" in command]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the clone, a few images of the miniature world, and my_seg as the recipes say."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "maft").symlink_to(ROOT)
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    ensure_miniature(folder / "datasets/miniature", {"train": 12, "val": 2})
    return folder


def run(place, command, *more):
    # The clone is a link: its parent is the repository's, so the files of the recipe are named from here.
    words = [word.replace("../my_seg", str(place / "my_seg")) for word in command.split()]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(place / "datasets"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words, *more],
        cwd=place / "maft",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_there_are_three_recipes_and_their_tests():
    assert len(TRAININGS) == 3 and len(COMMANDS) == 4
    assert {Path(name).suffix for name in FILES} == {".py", ".yaml"} and len(FILES) == 7


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("command", TRAININGS, ids=lambda command: Path(command).stem)
def test_a_recipe_trains_and_evaluates(place, tmp_path, command, processes):
    several = ("--num-gpus", "0", "--num-processes", "2") if processes == 2 else ()
    done = run(place, command, *several, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "2")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (tmp_path / "model_final/model.safetensors").is_file()
    assert (tmp_path / "inference/miniature_val/results.json").is_file()
    assert "loss_" in (tmp_path / "metrics.json").read_text()
    # What it was made with goes along with it.
    assert re.search(r"^- .*/my_seg/\w+\.py$", (tmp_path / "model_final/config.yaml").read_text(), re.MULTILINE)


def test_the_components_join_the_conformance_tests(place):
    done = run(place, next(command for command in COMMANDS if "pytest" in command), "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout
