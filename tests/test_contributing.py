"""CONTRIBUTING's recipes train with two processes, too; tests/documentation runs them as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documentation.pages import ROOT, blocks

from maft.data.miniature import ensure_miniature

BLOCKS = list(blocks("CONTRIBUTING.md"))
FILES = {block.file: block.text for block in BLOCKS if block.file}
TRAININGS = [block.text.split()[2] for block in BLOCKS if block.text.startswith("maft train ../my_seg/")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the clone, a few images of the miniature world, and my_seg as the recipes say."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "maft").symlink_to(ROOT)
    (folder / "my_seg").mkdir()
    for name, content in FILES.items():
        (folder / "my_seg" / Path(name).name).write_text(content)
    ensure_miniature(folder / "datasets/miniature", {"train": 12, "val": 2})
    return folder


def test_there_are_three_recipes_and_their_tests():
    assert len(TRAININGS) == 3
    assert {Path(name).suffix for name in FILES} == {".py", ".yaml"} and len(FILES) == 7


@pytest.mark.parametrize("config", TRAININGS, ids=lambda config: Path(config).stem)
def test_a_recipe_trains_and_evaluates(place, tmp_path, config):
    # The clone is a link: its parent is the repository's, so the files of the recipe are named from here.
    command = ["train", str(place / "my_seg" / Path(config).name), "--num-gpus", "0", "--num-processes", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "maft", *command, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "2"],
        cwd=place / "maft",
        env={**os.environ, "DETECTRON2_DATASETS": str(place / "datasets"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (tmp_path / "model_final/model.safetensors").is_file()
    assert (tmp_path / "inference/miniature_val/results.json").is_file()
    assert "loss_" in (tmp_path / "metrics.json").read_text()
    # What it was made with goes along with it.
    assert re.search(r"^- .*/my_seg/\w+\.py$", (tmp_path / "model_final/config.yaml").read_text(), re.MULTILINE)
