"""The audit of the shipped configs: differences from the official recipes are declared, and a planted one is found."""

import sys

import check_recipes
import pytest
from recipes.comparison import REQUIRED, audit, read_official, same, text, unmatched

from maft.config import load_config
from maft.errors import UserError

NAMES = check_recipes.config_names()
MAFT, ZEGFORMER = "maft/maft_vitb16_coco-stuff-171", "maft/zegformer_coco-stuff-156"
DROPOUT = "MODEL.PROPOSER.DROPOUT_WHEN_FROZEN"


@pytest.fixture(scope="module")
def official():
    return read_official()


def load(name, *overrides):
    return load_config(check_recipes.CONFIGS / f"{name}.yaml", list(overrides))


@pytest.mark.parametrize("name", NAMES)
def test_a_config_differs_from_its_official_recipe_only_where_it_says_so(name, official):
    assert audit(name, load(name), official).problems == []


def test_every_official_recipe_has_a_config(official):
    assert unmatched(NAMES, official) == []
    assert unmatched([], official)[0] in official["RECIPES"][0]["CONFIGS"]


@pytest.mark.parametrize(
    ("name", "overrides", "fact"),
    [
        (MAFT, ["SOLVER.IMS_PER_BATCH", "8"], "batch"),
        (MAFT, ["SOLVER.MAX_ITER", "999"], "iterations"),
        (MAFT, ["SOLVER.BASE_LR", "1.1e-5"], "rate"),
        (ZEGFORMER, ["SOLVER.LR_MULTIPLIERS", "[]"], "backbone rate"),
        (MAFT, ["SOLVER.POLY_POWER", "1.0"], "schedule"),
        (MAFT, ["SOLVER.WARMUP_ITERS", "10"], "schedule"),
        (MAFT, ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"], "schedule"),
        ("fcclip/fcclip_r50_coco-panoptic", ["SOLVER.STEPS", "[327778]"], "schedule"),
        (MAFT, ["SOLVER.WEIGHT_DECAY", "1e-5"], "decay"),
        (MAFT, ["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"], "gradient norm"),
        (MAFT, ["INPUT.MIN_SIZE_TRAIN", "[640]"], "training sizes"),
        ("fcclip/fcclip_r50_coco-panoptic", ["INPUT.LARGE_SCALE_JITTER.SCALE", "[0.5, 2.0]"], "training sizes"),
        (MAFT, ["INPUT.CROP.ENABLED", "False"], "crop"),
        (MAFT, ["INPUT.CROP.SIZE", "[640, 480]"], "crop"),
        (MAFT, ["INPUT.PADDED_SIZE", "672"], "padding"),
        (MAFT, ["INPUT.MAX_SIZE_TEST", "2048"], "test size"),
        (MAFT, ["MODEL.VOCABULARY.TEMPLATES", "a photo of a {}."], "templates"),
        (MAFT, ["DATASETS.TRAIN", "['coco_stuff_train_seen']"], "training classes"),
        (MAFT, ["MODEL.LOSSES.SelfDistillationLoss.WEIGHT", "1.0"], "MODEL.LOSSES.SelfDistillationLoss.WEIGHT"),
        # An option of a component that is no longer used.
        (MAFT, ["MODEL.CLASSIFIER.NAME", "MaskedCrops"], "MODEL.CLASSIFIER.IPCLIP.INPUT_SIZE"),
    ],
)
def test_a_planted_difference_is_found(name, overrides, fact, official):
    before, after = (audit(name, load(name, *given), official).problems for given in ([], overrides))
    assert any(problem.startswith(f"{fact}: ") for problem in set(after) - set(before)), after


def test_a_dataset_of_another_class_count_is_found(official):
    changed = {**official, "LABEL_SETS": {**official["LABEL_SETS"], "ade20k_150_val": 151}}
    assert any(problem.startswith("test classes: ") for problem in audit(MAFT, load(MAFT), changed).problems)


def test_a_declared_difference_is_shown_with_its_reason_and_one_that_is_none_is_a_problem(official):
    cfg = load(MAFT, "SOLVER.MAX_ITER", "999", "TEST.DEVIATIONS", f"[[iterations, too long], [{DROPOUT}, noise]]")
    result = audit(MAFT, cfg, official)
    assert result.problems == []
    assert {row.fact: row.verdict for row in result.rows}["iterations"] == "deliberate: too long"

    cfg = load(MAFT, "TEST.DEVIATIONS", f"[[rate, faster], [{DROPOUT}, noise]]")
    assert audit(MAFT, cfg, official).problems == ["TEST.DEVIATIONS: rate does not differ"]


def test_a_config_without_an_official_recipe_has_to_say_so(official):
    cfg = load(MAFT)
    assert audit("maft/of_nobody", cfg, official).problems == ["official.yaml has no recipe for it"]
    (problem,) = audit("mask_adapter/sam_convnextl", cfg, official).problems
    assert "does not say so" in problem


def test_an_official_recipe_has_to_say_everything_if_only_that_it_is_not_published(official):
    block = {"SOURCE": "a paper", "CONFIGS": ["maft/*"], "VALUES": {"batch": None, DROPOUT: True}}
    result = audit(MAFT, load(MAFT), {**official, "RECIPES": [block]})
    assert result.problems == [f"the official recipe does not say: {name}" for name in REQUIRED if name != "batch"]
    assert result.rows[0].verdict == "not compared"


def test_an_official_fact_that_does_not_exist_is_named(official):
    block = {"SOURCE": "a paper", "CONFIGS": ["maft/*"], "VALUES": {"MODEL.CLASSIFIER.IPCLIP.START_LAYERS": 8}}
    with pytest.raises(UserError, match="START_LAYERS is neither a config key nor one of: batch"):
        audit(MAFT, load(MAFT), {**official, "RECIPES": [block]})


def test_values_are_compared_as_data():
    assert same({"scale": [0.1, 2.0]}, {"scale": (0.1, 2)})
    assert same(1e-5, 1e-4 * 0.1)
    assert not same([1, 2], [1, 2, 3])
    assert not same({"a": 1}, {"b": 1})
    assert text([320, 384, 448, 512]) == "320 ... 512 (4)"


def test_the_tool_prints_official_values_beside_ours_and_ends_with_what_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check_recipes.py", MAFT])
    assert check_recipes.main() == 0
    printed = capsys.readouterr().out
    assert MAFT in printed and "16" in printed and "deliberate: " in printed and "out/MAFT/config.yaml" in printed

    monkeypatch.setattr("maft.config.load_config", lambda path: load_config(path, ["SOLVER.MAX_ITER", "999"]))
    assert check_recipes.main() == 1
    assert f"{MAFT}: iterations: 1000 in" in capsys.readouterr().out

    monkeypatch.setattr(sys, "argv", ["check_recipes.py", "maft/nothing"])
    with pytest.raises(UserError, match="No config matches maft/nothing"):
        check_recipes.main()
