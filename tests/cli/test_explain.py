"""From drawn scenes to the page, as a user goes."""

import csv
import json

import pytest

from maft.cli import run
from maft.errors import UserError
from maft.evaluation import evaluate
from maft.evaluation.explain.sections import CAUSES
from maft.predictor import Predictor

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


def test_an_evaluation_that_kept_its_index_is_explained_with_its_own_score(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder.parents[1]))
    predictor = Predictor.from_pretrained("miniature")
    cfg = predictor.cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST, cfg.OUTPUT_DIR, cfg.TEST.SAVE_INDEX = ("miniature_val",), str(tmp_path), True
    cfg.MODEL.DEVICE, cfg.DATALOADER.NUM_WORKERS = "cpu", 0
    results = evaluate(cfg, predictor.model)
    run(["explain", str(tmp_path)])
    of_run = tmp_path / "inference" / "miniature_val" / "explanation"
    found = json.loads((of_run / "explanation.json").read_text())
    assert found["miou"] == pytest.approx(results["miniature_val"]["sem_seg"]["mIoU"], abs=1e-9)
    assert found["total"] == json.loads((folder / "explanation.json").read_text())["total"]
    assert len(found["facts"]["provenance"]["data"]) == 64
    assert found["facts"]["provenance"]["data"] in (of_run / "explanation.html").read_text()


def test_an_index_of_photographs_is_explained_by_the_dataset_they_are_of(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder.parents[1]))
    index, output = tmp_path / "photos.index", tmp_path / "explained"
    run(["index", str(folder.parents[1] / "miniature/val/images"), "--model", "miniature", "--output", str(index)])
    with pytest.raises(UserError, match="name it with --dataset"):
        run(["explain", str(index)])
    run(["explain", str(index), "--dataset", "miniature_val", "--output", str(output)])
    found = json.loads((output / "explanation.json").read_text())
    assert found["total"] == json.loads((folder / "explanation.json").read_text())["total"]
    assert found["mask_accuracy"] is None
    assert "Not measured" in (output / "explanation.html").read_text()
