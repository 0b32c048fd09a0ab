"""OVSeg's rows on the miniature world: stages that rows share, and what is handed over by path."""

from pathlib import Path

import pytest

from maft.config import load_config, start_from
from maft.reproduction.methods import OVSEG_TABLE
from maft.reproduction.ovseg import FINE_TUNING, PROMPTS, hand_over, stage_runs

FOLDER = Path("output")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(run):
    return load_config(run.config, list(run.overrides))


def test_prompts_after_fine_tuning_start_from_its_clip_and_rows_share_the_fine_tuning():
    first, second = stage_runs(FOLDER, (FINE_TUNING, PROMPTS), seed=2)
    assert [first] == stage_runs(FOLDER, (FINE_TUNING,), seed=2)
    assert load(first).MODEL.START_FROM == []
    fine_tuned = str(first.folder / "model_final/model.safetensors")
    assert [{"FILE": fine_tuned, "TAKE": "clip"}] == load(second).MODEL.START_FROM
    assert load(first).MODEL.REGION_CLIP.TRAIN == "tower" and load(second).MODEL.REGION_CLIP.TRAIN == "prompts"
    alone = stage_runs(FOLDER, (PROMPTS,), seed=2)[0]
    assert load(alone).MODEL.START_FROM == [] and alone.folder != second.folder
    assert load(first).DATASETS.TRAIN == load(second).DATASETS.TRAIN == load(alone).DATASETS.TRAIN
    assert load(first).SEED == 2


@pytest.mark.parametrize("method", OVSEG_TABLE, ids=lambda method: method.name)
def test_rows_differ_in_nothing_but_the_tuned_clip(method):
    frozen = load(OVSEG_TABLE[0].run(FOLDER, seed=1))
    cfg = load(method.run(FOLDER, seed=1))
    crops = cfg.MODEL.CLASSIFIER.MaskedCrops
    if method.stages:
        last = stage_runs(FOLDER, method.stages, seed=1)[-1]
        weights = str(last.folder / "model_final/model.safetensors")
        rules = {tuple(rule.take): rule.file for rule in start_from(cfg)}
        assert rules.pop(()) == start_from(frozen)[0].file and rules.pop(("clip",)) == weights
        depth = load(last).MODEL.REGION_CLIP.MASK_PROMPT_DEPTH
        assert bool(depth) == (PROMPTS in method.stages)
        assert crops.pop("MASK_PROMPT_DEPTH", 0) == depth
        assert rules == ({("mask_prompts",): weights} if depth else {})
        cfg.MODEL.START_FROM = frozen.MODEL.START_FROM
    assert cfg.SEED == frozen.SEED
    assert cfg == frozen
    assert method.run(FOLDER, seed=1).eval_only


def test_prompts_are_handed_over_only_when_there_are_some():
    overrides = hand_over(stage_runs(FOLDER, (FINE_TUNING,), seed=1))
    assert "mask_prompts" not in overrides[1] and overrides[-1] == "0"
