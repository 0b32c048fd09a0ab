"""The miniature world is drawn at first use: what is asked for, once, whoever else asks at the same time."""

import subprocess
import sys

import pytest

from maft.data import miniature
from maft.data.records import dataset_records
from maft.errors import UserError

PROGRAM = """
from maft.data import miniature
from maft.data.records import dataset_records
miniature.DEFAULT_COUNTS = {"train": 40, "val": 3}
print(len(dataset_records("miniature_train_seen")))
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.setattr(miniature, "DEFAULT_COUNTS", {"train": 4, "val": 3})
    return tmp_path


def test_an_empty_folder_gets_what_is_asked_for(elsewhere, caplog):
    assert len(dataset_records("miniature_val")) == 3
    assert [path.name for path in (elsewhere / "datasets/miniature").glob("[a-z]*")] == ["classes.txt", "val"]
    assert len(dataset_records("miniature_train_seen_2")) == 4
    assert not (elsewhere / "datasets/miniature/train/masks_seen_0").exists()
    assert len(dataset_records("miniature_val")) == 3
    said = [record.getMessage() for record in caplog.records if "Drawing" in record.getMessage()]
    assert len(said) == 2 and said[0] == "Drawing 3 val scenes of the miniature world into datasets/miniature, once."


def test_processes_that_start_together_draw_once(elsewhere):
    running = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], ended
    assert [out for out, _ in ended] == ["40\n"] * 3
    assert sum("Drawing 40 train scenes" in log for _, log in ended) == 1


def test_a_folder_that_a_variable_names_is_not_made(elsewhere, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(elsewhere / "misspelt"))
    with pytest.raises(UserError, match="misspelt does not exist"):
        dataset_records("miniature_val")
    assert not list(elsewhere.iterdir())


def test_a_place_that_cannot_be_written(elsewhere):
    (elsewhere / "datasets").touch()
    with pytest.raises(UserError, match="Cannot write the miniature world to datasets/miniature: .*DATASETS"):
        dataset_records("miniature_val")
