"""Mistakes in the final evaluation are refused before anything is written."""

import pytest

from maft.config import load_config
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
