"""Numbers that cannot be meant, and mistakes in the final evaluation, are refused before anything is written."""

import pytest

from maft.config import load_config
from maft.config_checks import check_options
from maft.engine.training import run
from maft.errors import UserError


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("SOLVER.MAX_ITER", "0", "SOLVER.MAX_ITER is 0: it must be at least 1"),
        ("SOLVER.LOG_PERIOD", "0", "SOLVER.LOG_PERIOD is 0"),
        ("DATALOADER.NUM_WORKERS", "-1", "DATALOADER.NUM_WORKERS is -1: it must be at least 0"),
        ("SOLVER.LR_MULTIPLIERS", "[3]", "SOLVER.LR_MULTIPLIERS holds 3: each entry is"),
        ("SOLVER.LR_MULTIPLIERS", "[['backbone', 'x']]", "SOLVER.LR_MULTIPLIERS holds"),
        ("INPUT.MIN_SIZE_TRAIN", "[]", "INPUT.MIN_SIZE_TRAIN is []"),
    ],
)
def test_numbers_and_pairs(tiny_configs, key, value, sentence):
    with pytest.raises(UserError) as raised:
        check_options(load_config(tiny_configs / "maft.yaml", [key, value]))
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "eval_only", "sentence"),
    [
        (["DATASETS.TEST", "['miniature_vall']"], False, "Did you mean miniature_val"),
        (["TEST.PROTOCOL", "all"], False, "TEST.PROTOCOL is 'all'"),
        ([], False, r"folder of all datasets .* does not exist \(dataset miniature_val\)"),
        (["DATASETS.TEST", "[]"], True, "DATASETS.TEST is empty"),
        (["SOLVER.MAX_ITER", "0"], False, "SOLVER.MAX_ITER is 0"),
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
