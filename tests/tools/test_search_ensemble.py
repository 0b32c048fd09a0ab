"""The search over mask threshold and ensemble weight against one evaluation for each pair."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from ensemble_search import search

from maft.building import build_model
from maft.errors import UserError
from maft.evaluation import evaluate_dataset

SCRIPT = Path(__file__).parents[1] / "mining" / "mining_run.py"
THRESHOLDS, WEIGHTS = (0.45, 0.55), (0.0, 0.4, 0.7)


@pytest.fixture(scope="module")
def run():
    spec = importlib.util.spec_from_file_location("mining_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def work(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
        run.prepare(folder)
        yield folder


def same(ours, theirs):
    return ours == theirs or (math.isnan(ours) and math.isnan(theirs)) or math.isclose(ours, theirs, rel_tol=1e-9)


def test_one_pass_finds_what_single_evaluations_find(run, work, tmp_path):
    cfg = run.config(work, tmp_path)
    model = build_model(cfg).eval()
    calls = []
    model.proposer.register_forward_hook(lambda *_: calls.append(1))
    before = model.classifier.mask_threshold, model.ensemble
    rows = search(cfg, model, "miniature_val", THRESHOLDS, WEIGHTS)
    assert len(calls) == 4, "masks are proposed once an image"
    assert (model.classifier.mask_threshold, model.ensemble) == before
    assert [(row["threshold"], row["weight"]) for row in rows] == [(t, w) for t in THRESHOLDS for w in WEIGHTS]

    for row in (rows[1], rows[3], rows[-1]):
        single = run.config(
            work, tmp_path,
            "MODEL.CLASSIFIER.MaskedCrops.MASK_THRESHOLD", str(row["threshold"]),
            "MODEL.ENSEMBLE.OVSegEnsemble.WEIGHT", str(row["weight"]),
        )  # fmt: skip
        expected = evaluate_dataset(single, build_model(single).eval(), "miniature_val")
        assert all(same(row[name], value) for name, value in expected["sem_seg"].items())
    assert len({round(row["pACC"], 6) for row in rows}) > 2, "the settings make a difference"


@pytest.mark.parametrize(
    ("thresholds", "weights", "complaint"),
    [((), (0.5,), "at least one threshold"), ((1.5,), (0.5,), "threshold 1.5"), ((0.5,), (2.0,), "is 2.0")],
)
def test_impossible_settings(run, work, tmp_path, thresholds, weights, complaint):
    cfg = run.config(work, tmp_path)
    with pytest.raises(UserError, match=complaint):
        search(cfg, build_model(cfg), "miniature_val", thresholds, weights)


@pytest.mark.parametrize("key", ["AUG", "SLIDING_WINDOW"])
def test_averaged_maps_are_refused(run, work, tmp_path, key):
    cfg = run.config(work, tmp_path, f"TEST.{key}.ENABLED", "True")
    with pytest.raises(UserError, match="measures whole images"):
        search(cfg, build_model(cfg), "miniature_val", THRESHOLDS, WEIGHTS)


def test_another_classifier_is_refused(run, work, tmp_path):
    cfg = run.config(work, tmp_path, "MODEL.CLASSIFIER.NAME", "none")
    with pytest.raises(UserError, match="MaskedCrops"):
        search(cfg, build_model(cfg), "miniature_val", THRESHOLDS, WEIGHTS)
    assert torch.is_grad_enabled()
