"""The rows of the miniature tables: their configs exist, their folders differ, and they can be chosen by name."""

from pathlib import Path

import pytest

from maft.building import model_shapes
from maft.config import load_config
from maft.errors import UserError
from maft.reproduction.methods import MASK_ADAPTER_TABLE, TABLE, TUNING_TABLE, choose
from maft.reproduction.runs import ground_truth_masks


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("table", [TABLE, TUNING_TABLE], ids=["table", "tuning"])
def test_every_row_has_a_config_and_a_folder_of_its_own(table):
    runs = [method.run(Path("output"), seed=1) for method in table]
    for run in runs:
        load_config(run.config, list(run.overrides))
    assert len({run.folder for run in runs}) == len(table)


def test_hyperparameters_are_chosen_without_a_look_at_the_unseen_classes():
    for method in TUNING_TABLE:
        run = method.run(Path("output"), seed=1)
        cfg = load_config(run.config, list(run.overrides))
        assert list(cfg.DATASETS.TRAIN) == ["miniature_train_seen_tuning"]
        assert list(cfg.DATASETS.TEST) == ["miniature_val_tuning"]


def test_both_rows_of_mask_adapter_have_the_same_clip_and_the_same_masks():
    pooling, adapter = (load_config(run.config) for run in (row.run(Path("output"), 1) for row in MASK_ADAPTER_TABLE))
    assert pooling.MODEL.CLIP == adapter.MODEL.CLIP and pooling.MODEL.PROPOSER == adapter.MODEL.PROPOSER
    assert pooling.MODEL.PROPOSER.FROZEN and adapter.MODEL.PROPOSER.FROZEN
    assert pooling.DATASETS == adapter.DATASETS and pooling.MODEL.ENSEMBLE == adapter.MODEL.ENSEMBLE


@pytest.mark.parametrize("method", TABLE, ids=lambda method: method.name)
def test_the_oracle_column_reads_no_proposer(method):
    run = ground_truth_masks(method.run(Path("output"), seed=1))
    cfg = load_config(run.config, list(run.overrides))
    assert run.eval_only and cfg.MODEL.PROPOSER.NAME == "GroundTruth"
    assert not [name for name in model_shapes(cfg) if name.startswith("proposer.")]


def test_rows_are_chosen_by_words_of_their_names():
    assert choose(TABLE, []) == list(TABLE)
    assert choose(TABLE, ["mask-adapter", "pooling"]) == list(MASK_ADAPTER_TABLE)
    with pytest.raises(UserError, match="No row of the table has 'deeplab' in its name; the rows are: Frozen CLIP;"):
        choose(TABLE, ["deeplab"])
