"""Mistakes in the final evaluation are refused before anything is written."""

import re

import pytest

from maft.config import load_config
from maft.data.miniature import ensure_miniature
from maft.engine.training import run
from maft.errors import UserError


@pytest.mark.parametrize(
    ("overrides", "eval_only", "sentence"),
    [
        (["DATASETS.TEST", "['miniature_vall']"], False, "Did you mean miniature_val"),
        ([], False, r"folder of all datasets .* does not exist \(dataset miniature_val\)"),
        (["DATASETS.TEST", "[]"], True, "DATASETS.TEST is empty"),
    ],
)
def test_nothing_is_written_before_the_evaluation_is_possible(
    tiny_configs, tmp_path, monkeypatch, overrides, eval_only, sentence
):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    output = tmp_path / "out"
    cfg = load_config(tiny_configs / "maft.yaml", ["OUTPUT_DIR", str(output), *overrides])
    with pytest.raises(UserError, match=sentence):
        run(cfg, eval_only)
    assert not output.exists()


@pytest.mark.parametrize(("name", "warned"), [("maft", True), ("frozen_clip", False), ("masked_crops", False)])
def test_an_evaluation_of_what_a_training_starts_from_says_so(tmp_path, monkeypatch, name, warned):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    ensure_miniature(tmp_path / "miniature", {"train": 1, "val": 1})
    overrides = ["OUTPUT_DIR", str(tmp_path / "out"), "MODEL.DEVICE", "cpu"]
    run(load_config(f"quickstart/{name}", overrides), eval_only=True)
    log = (tmp_path / "out/log.txt").read_text()
    assert ("MODEL.WEIGHTS is empty, so that this evaluates what a training" in log) == warned
    assert "tested on  miniature_val: 1 images, 24 classes (18 seen, 6 unseen)" in log
    assert re.search(r"Weights: clip: \d+ tensors of the shipped tiny_vit; .*proposer: \d+ tensors from ", log)
