"""Exported parts compute what the model does, at sizes and batches that were not traced."""

import json

import pytest
import torch

from maft.errors import UserError
from maft.exporting import run
from maft.exporting.run import export
from maft.predictor import Predictor

WORDS = ["bear", "tree", "sky"]


@pytest.fixture(scope="module")
def predictor():
    return Predictor.from_config("quickstart/maft", ["MODEL.START_FROM", "[]"])


def made(predictor, folder, **options):
    return export(predictor.model, predictor.vocabulary(WORDS), folder, **options)


def test_a_text_tower_is_an_exported_program(predictor, tmp_path):
    file, difference = made(predictor, tmp_path, part="text-tower", format="pt2")
    tokens = predictor.model.clip.tokenize(["a bear", "a tree"])
    (found,) = torch.export.load(file).module()(tokens)
    assert difference < 1e-4
    assert json.loads((tmp_path / "text-tower.pt2.json").read_text())["check"]["passed"]
    torch.testing.assert_close(found, predictor.model.clip.encode_text(tokens), rtol=1e-4, atol=1e-4)


def test_what_differs_stays_and_says_so(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "largest_difference", lambda part, runner: (0.5, "embeddings"))
    with pytest.raises(UserError, match="embeddings differs by 5.0e-01.*left there"):
        made(predictor, tmp_path, part="text-tower", format="pt2")
    assert (tmp_path / "text-tower.pt2").is_file()
    assert json.loads((tmp_path / "text-tower.pt2.json").read_text())["check"]["passed"] is False


@pytest.mark.parametrize(
    "options, message",
    [
        ({"part": "tower"}, "no part 'tower'"),
        ({"format": "tflite"}, "no format 'tflite'"),
        ({"format": "pt2"}, "may refuse a single image"),
        ({"part": "text-tower", "semantic": True}, "belong to the part model"),
    ],
)
def test_what_there_is_not_is_a_sentence(predictor, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        made(predictor, tmp_path, **options)


@pytest.mark.parametrize("name", ["masked_crops", "roi_align_crops", "text_region", "mask_clip_pp"])
def test_what_cannot_be_exported_is_refused_by_name(name, tmp_path):
    other = Predictor.from_config(f"quickstart/{name}", ["MODEL.START_FROM", "[]"])
    with pytest.raises(UserError, match=f"{type(other.model.classifier).__name__} cannot be exported: it "):
        export(other.model, other.vocabulary(WORDS), tmp_path)
    assert not list(tmp_path.iterdir())
