"""From drawn scenes to the page, as a user goes."""

import csv
import json

import pytest

from maft.cli import run
from maft.errors import UserError
from maft.evaluation.explain.sections import CAUSES

from ..evaluation.explain.explained import explained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("world"), 6)


def test_an_index_becomes_a_page_and_its_numbers(folder):
    found = json.loads((folder / "explanation.json").read_text())
    assert found["facts"]["dataset"] == "miniature_val" and found["facts"]["images"] == 6
    for one in (found["total"], *found["groups"].values()):
        assert sum(one[cause] for cause in CAUSES) == pytest.approx(one["loss"], abs=1e-6)
    assert found["total"]["loss"] == pytest.approx(100 - found["miou"], abs=1e-6)
    assert found["mask_accuracy"]["mean"] > 50
    text = (folder / "explanation.html").read_text()
    assert f"{found['miou']:.1f}" in text and text.count("data:image/jpeg") == len(found["worst_masks"]) <= 12
    with open(folder / "explanation_classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found["classes"]) == 24
    with open(folder / "explanation_images.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 6


def test_the_same_index_is_explained_alike(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder.parents[1]))
    run(["explain", str(folder.parent), "--worst", "12", "--output", str(tmp_path)])
    for file in folder.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_no_pictures_can_be_asked_for(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder.parents[1]))
    run(["explain", str(folder.parent), "--worst", "0", "--output", str(tmp_path)])
    assert "data:image/jpeg;" not in (tmp_path / "explanation.html").read_text()


def test_an_index_without_the_dataset_it_is_of_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(UserError, match="miniature"):
        run(["explain", str(folder.parent)])
