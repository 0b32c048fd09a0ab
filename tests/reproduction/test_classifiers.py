"""The table of mask classifiers: its rows fit together, a real row is measured once, and seeds are averaged."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from maft.config import load_config, start_from
from maft.data.miniature import ensure_miniature
from maft.registry import CLASSIFIERS
from maft.reproduction.classifiers import classifier_rows, compare
from maft.reproduction.methods import choose
from maft.reproduction.runs import fingerprint, ground_truth_masks

ROWS = classifier_rows()
# The proposer that every row without masks of its own names the masks of.
SHARED = "Mask2Former"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A world of three images, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    ensure_miniature(counts={"train": 2, "val": 3})
    return tmp_path


def config(method):
    run = method.run(Path("output"), seed=1)
    return load_config(run.config, list(run.overrides))


def test_the_rows_are_told_apart_and_every_classifier_is_among_them():
    names = [method.name for method in ROWS]
    assert len(set(names)) == len({method.run(Path("output"), 1).folder for method in ROWS}) == len(ROWS)
    assert set(CLASSIFIERS) <= {config(method).MODEL.CLASSIFIER.NAME for method in ROWS}


@pytest.mark.parametrize("method", ROWS, ids=lambda method: method.name)
def test_rows_name_the_masks_of_the_shipped_proposer_or_say_whose(method):
    cfg, reference = config(method), load_config("quickstart/frozen_clip")
    assert cfg.DATASETS == reference.DATASETS and cfg.INPUT.MIN_SIZE_TEST == reference.INPUT.MIN_SIZE_TEST
    if cfg.MODEL.PROPOSER.NAME == SHARED:
        assert cfg.MODEL.PROPOSER.FROZEN
        assert cfg.MODEL.PROPOSER[SHARED] == reference.MODEL.PROPOSER[SHARED]
        assert start_from(cfg)[0].file == start_from(reference)[0].file


def test_a_row_is_measured_and_not_measured_again(world, capsys):
    row = next(row for row in ROWS if row.name == "Mask pooling")
    text = compare(world / "output", [row])
    (kept,) = json.loads((world / "output/table.json").read_text())
    assert (world / "output/table.md").read_text() == text + "\n"
    assert kept["method"] in text and kept["masks"] == SHARED and kept["seeds"] == []
    for column, values in kept["values"].items():
        assert len(values) == 1 and 0 <= values[0] <= (1e4 if "image" in column else 100)
    assert kept["values"]["s / image"][0] > 0 and {"mask accuracy", "mIoU, true masks"} <= kept["values"].keys()
    capsys.readouterr()
    assert compare(world / "output", [row]) == text
    assert "$ maft" not in capsys.readouterr().out


def test_seeds_are_averaged_and_only_what_names_masks_has_a_column_of_true_masks(world):
    (trained,) = choose(ROWS, ["Mask-Adapter"])
    # As the proposer's own class scores name masks.
    alone = replace(trained, name="alone", overrides=("MODEL.CLASSIFIER.NAME", "none", "MODEL.LOSSES", "{}"))
    for method in (trained, alone):
        for seed in (1, 2):
            run = method.run(world / "output", seed)
            done(run, {"sem_seg": dict.fromkeys(["seen_mIoU", "unseen_mIoU", "harmonic_mIoU"], 10.0 * seed)})
            accuracy = {"mMaskAcc": 80.0 + seed, "unseen_mMaskAcc": None}
            of_truth = {"sem_seg": {"mIoU": 50.0}, "mask_accuracy": accuracy}
            done(ground_truth_masks(run, "TEST.MASK_ACCURACY", "True"), of_truth)
            (run.folder / "cost.json").write_text('{"seconds": 0.0625, "mib": null}')
    text = compare(world / "output", [trained, alone], seeds=(1, 2))
    first, second = json.loads((world / "output/table.json").read_text())
    assert first["seeds"] == [1, 2] and first["values"]["sIoU"] == [10.0, 20.0]
    assert first["values"]["training seconds"] == [3.0, 3.0]
    assert not {"mask accuracy", "mIoU, true masks"} & second["values"].keys()
    cells = [[cell.strip() for cell in line.split("|")[4:-1]] for line in text.splitlines()[2:]]
    assert cells == [
        ["2", *["15.0 ± 7.1"] * 3, "50.0 ± 0.0", "81.5 ± 0.7", "-", "0.062", "-"],
        ["2", *["15.0 ± 7.1"] * 3, "-", "-", "-", "0.062", "-"],
    ]


def test_true_masks_are_named_by_the_classifier_alone(world):
    (row,) = choose(ROWS, ["Mask pooling, EoMT's masks"])
    row = replace(row, overrides=("SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2"))
    text = compare(world / "output", [row], seeds=(1,))
    (kept,) = json.loads((world / "output/table.json").read_text())
    assert kept["masks"] == "EoMT" and {"mask accuracy", "mIoU, true masks"} <= kept["values"].keys()
    assert row.name in text


def done(run, results):
    """Leaves what a finished run does."""
    run.folder.mkdir(parents=True, exist_ok=True)
    record = {"fingerprint": fingerprint(run), "seconds": 3.0, "results": {"miniature_val": results}}
    (run.folder / "run.json").write_text(json.dumps(record))
