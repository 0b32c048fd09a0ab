"""An index of a dataset explains the score that the model has on it, to the last digit."""

import json
from dataclasses import replace

import pytest

from maft.errors import UserError
from maft.evaluation.explain.explaining import explain
from maft.evaluation.explain.sources import find_source


@pytest.fixture(scope="module")
def index(world, tmp_path_factory):
    """Folder of an index of the scenes with their true masks, and what `maft evaluate` measures there."""
    from maft.cli.index import main
    from maft.evaluation import evaluate
    from maft.predictor import Predictor

    folder = tmp_path_factory.mktemp("index") / "scenes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(world))
        main(["--dataset", "miniature_val", "--model", "miniature", "--output", str(folder), "--num-gpus", "0"])
        predictor = Predictor.from_pretrained("miniature")
        cfg = predictor.cfg.clone()
        cfg.defrost()
        cfg.TEST.MASK_ACCURACY, cfg.OUTPUT_DIR, cfg.MODEL.DEVICE = True, str(folder.parent / "run"), "cpu"
        cfg.DATASETS.TEST, cfg.DATALOADER.NUM_WORKERS = ("miniature_val",), 0
        results = evaluate(cfg, predictor.model)["miniature_val"]
    return folder, results


@pytest.fixture
def explanation(index, world, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    return explain(find_source(index[0]))


def test_an_index_explains_the_numbers_of_the_evaluation(index, explanation, tmp_path):
    results = index[1]
    assert explanation.miou == results["sem_seg"]["mIoU"]
    of = {one.name: one.parts for one in explanation.classes}
    for name, parts in of.items():
        measured = results["sem_seg"][f"IoU-{name}"]
        assert (parts is None and measured != measured) or parts.loss == pytest.approx(100 - measured, abs=1e-9)
    for group in ("seen", "unseen"):
        assert explanation.groups[group].loss == pytest.approx(100 - results["sem_seg"][f"{group}_mIoU"], abs=1e-9)
    accuracy = explanation.mask_accuracy
    assert accuracy.mean == results["mask_accuracy"]["mMaskAcc"]
    assert accuracy.total == results["mask_accuracy"]["MaskAcc"]

    sums = [explanation.total, *explanation.groups.values(), *(one.parts for one in explanation.images)]
    sums += [parts for parts in of.values() if parts is not None]
    for parts in sums:
        added = parts.masks + parts.names + parts.ensemble + parts.fusion + parts.void
        assert added == pytest.approx(parts.loss, abs=1e-6)
    # The shipped model names masks by its classifier alone, without void.
    assert explanation.total.ensemble == explanation.total.void == 0

    explanation.write(tmp_path)
    read = json.loads((tmp_path / "explanation.json").read_text())
    assert read["total"]["loss"] == explanation.total.loss and read["version"] == 1
    assert len((tmp_path / "explanation_images.csv").read_text().splitlines()) == 1 + len(explanation.images)


def test_statistics_of_an_index_agree_with_each_other(explanation):
    by_kind = {one.kind: one for one in explanation.mask_recall}
    assert set(by_kind) == {"class region", "connected component"}
    for one in by_kind.values():
        assert sum(one.counts.values()) == one.count and list(one.recall) == sorted(one.recall, reverse=True)
    assert sum(one.pixels for one in explanation.confusions) == sum(explanation.name_ranks.pixels[1:])
    pixels = sum(one.pixels for one in explanation.classes)
    assert sum(one.pixels for one in explanation.calibration.bins) == pixels
    worst = explanation.worst_masks
    assert 0 < len(worst) <= 24 and [one.pixels for one in worst] == sorted((o.pixels for o in worst), reverse=True)
    assert all((one.mask is None) == (one.cause == "masks") for one in worst)


def test_an_index_of_other_images_is_refused(index, world, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    from maft.miniature import materialise

    materialise(tmp_path / "miniature", "val", 3)
    with pytest.raises(UserError, match="holds images that miniature_val does not have"):
        explain(find_source(index[0]))


def test_an_index_that_lacks_images_is_refused(index, tmp_path, world, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    from maft.evaluation.explain import explaining

    records = explaining.load_records(["miniature_val"], "test")
    more = [*records, {**records[0], "file_name": "one_more.png"}]
    monkeypatch.setattr(explaining, "load_records", lambda *_: more)
    with pytest.raises(UserError, match=r"lacks 1 of the \d+ images of miniature_val, such as one_more.png"):
        explain(find_source(index[0]))


def test_the_index_of_an_earlier_evaluation_explains_no_other_score(index, world, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    folder, results = index
    source, miou = find_source(folder), results["sem_seg"]["mIoU"]
    assert explain(replace(source, measured=miou)).miou == miou
    with pytest.raises(UserError, match=r"is not of the evaluation beside it: it gives .* Evaluate again with"):
        explain(replace(source, measured=miou - 0.5))
