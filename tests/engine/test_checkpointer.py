import os

import pytest
import torch
from detectron2.config import get_cfg
from safetensors.torch import load_file, save_file

from maft.config_keys import add_maft_config
from maft.engine.checkpointer import Checkpointer
from maft.errors import UserError
from maft.files import _UMASK, held


@pytest.fixture
def checkpointer(tmp_path):
    cfg = get_cfg()
    add_maft_config(cfg)
    return Checkpointer(tmp_path, cfg, keep=2)


STATE = {"seed": 0, "optimizer": {"state": {}, "param_groups": []}, "scaler": {}, "loader": {}}


def save(checkpointer, iteration):
    return checkpointer.save({"weight": torch.full((2,), float(iteration))}, {**STATE, "iteration": iteration})


def test_the_last_two_stay_and_the_pointer_names_the_newest(checkpointer):
    for iteration in (5, 10, 15):
        save(checkpointer, iteration)
    assert sorted(path.name for path in checkpointer.folder.iterdir()) == [
        "iter_0000010",
        "iter_0000015",
        "last_checkpoint",
    ]
    _, weights, state = checkpointer.latest()
    assert weights["weight"].tolist() == [15.0, 15.0]
    assert state["iteration"] == 15


def test_what_a_killed_writer_left_is_removed_by_the_next_run(checkpointer):
    save(checkpointer, 5)
    for name in ("checkpoints/.iter_0000010.0123abcd.tmp", ".model_final.0123abcd.tmp"):
        (checkpointer.output_dir / name).mkdir()
        (checkpointer.output_dir / name / "model.safetensors").write_bytes(b"half")
    (checkpointer.folder / ".last_checkpoint.0123abcd.tmp").write_text("iter")
    complete_but_not_pointed_to = checkpointer.folder / "iter_0000010"
    complete_but_not_pointed_to.mkdir()
    assert checkpointer.latest()[0].name == "iter_0000005"
    with held(checkpointer.output_dir, "checkpoints"):
        save(checkpointer, 10)
    assert checkpointer.latest()[2]["iteration"] == 10
    assert [path.name for path in checkpointer.output_dir.rglob(".*")] == [".lock"]


def test_a_failed_write_leaves_nothing_half(checkpointer):
    save(checkpointer, 5)

    class Unwritable:
        def __reduce__(self):
            raise RuntimeError("disk full")

    with pytest.raises(UserError, match="disk full"):
        checkpointer.save({"weight": torch.zeros(1)}, {"iteration": 10, "state": Unwritable()})
    assert sorted(path.name for path in checkpointer.folder.iterdir()) == ["iter_0000005", "last_checkpoint"]


def test_what_was_not_removed_any_more_is_removed_unless_the_newest_is_damaged(checkpointer):
    checkpointer.keep = 0
    folders = [save(checkpointer, iteration) for iteration in (3, 5, 7)]
    checkpointer.keep = 1
    checkpointer.prune(folders[1])
    assert len(list(checkpointer.folder.glob("iter_*"))) == 3
    checkpointer.prune(folders[2])
    assert list(checkpointer.folder.glob("iter_*")) == [folders[2]]


def test_an_incomplete_checkpoint_is_passed_over(checkpointer, caplog):
    save(checkpointer, 5)
    model = save(checkpointer, 7) / "model.safetensors"
    save_file({**load_file(model), "more": torch.zeros(1)}, model)
    assert checkpointer.latest()[2]["iteration"] == 5
    assert [record.getMessage() for record in caplog.records] == [
        f"Checkpoint {model.parent} cannot be resumed from: model.safetensors was changed or damaged."
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": {}},
        {"optimizer": [1]},
        {"optimizer": {"state": {}, "param_groups": [{"betas": (0.9, 0.99)}]}},
        {"optimizer": {"state": {}, "param_groups": [{"momentum": 0.9}]}},
        {"iteration": "7"},
        {"iteration": -1},
        {"iteration": True},
        {"iteration": 2**70},
        {"seed": -(2**40)},
        {"scaler": {"scale": "x"}},
        {"loader": None},
    ],
)
def test_an_incomplete_state_is_passed_over(checkpointer, change):
    save(checkpointer, 5)
    file = save(checkpointer, 7) / "trainer.pt"
    torch.save({**torch.load(file, weights_only=True), **change}, file)
    assert checkpointer.latest()[2]["iteration"] == 5


def test_a_checkpoint_that_does_not_name_its_model_file_is_read(checkpointer):
    file = save(checkpointer, 5) / "trainer.pt"
    state = torch.load(file, weights_only=True)
    del state["model_sha256"]
    torch.save(state, file)
    assert checkpointer.latest()[2]["iteration"] == 5


def test_without_a_pointer_the_highest_iteration_is_the_newest(checkpointer):
    for iteration in (5, 7):
        save(checkpointer, iteration)
    os.utime(checkpointer.folder / "iter_0000005")
    (checkpointer.folder / "last_checkpoint").unlink()
    (checkpointer.folder / "iter_backup").mkdir()
    assert checkpointer.latest()[2]["iteration"] == 7


def test_a_run_that_went_back_goes_on_with_its_own(checkpointer):
    checkpointer.keep = 0
    for iteration in (3, 5, 10, 4):
        save(checkpointer, iteration)
    (checkpointer.folder / "iter_0000004/trainer.pt").unlink()
    assert checkpointer.latest()[2]["iteration"] == 3


def test_a_pointer_leads_nowhere_else(checkpointer, caplog):
    save(checkpointer, 5)
    elsewhere = Checkpointer(checkpointer.output_dir / "other", checkpointer.cfg)
    save(elsewhere, 9)
    (checkpointer.folder / "last_checkpoint").write_text("../other/checkpoints/iter_0000009")
    assert checkpointer.latest()[2]["iteration"] == 5
    assert "'../other/checkpoints/iter_0000009', which is not there" in caplog.text


def test_a_folder_in_the_place_of_the_pointer_is_named(checkpointer):
    save(checkpointer, 5)
    (checkpointer.folder / "last_checkpoint").unlink()
    (checkpointer.folder / "last_checkpoint").mkdir()
    with pytest.raises(UserError, match="last_checkpoint is a folder where a file"):
        Checkpointer(checkpointer.output_dir, checkpointer.cfg)


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint"])
def test_a_damaged_state_is_named(checkpointer, content):
    file = save(checkpointer, 5) / "trainer.pt"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"iter_0000005.*trainer\.pt is missing or damaged"):
        checkpointer.latest()
    save(checkpointer, 3)
    assert checkpointer.latest()[2]["iteration"] == 3


def test_a_pointer_to_nothing_and_a_damaged_model_leave_the_intact_ones(checkpointer):
    save(checkpointer, 5)
    (checkpointer.folder / "last_checkpoint").write_text("iter_0000009\n")
    assert checkpointer.latest()[2]["iteration"] == 5
    (save(checkpointer, 7) / "model.safetensors").write_bytes(b"cut")
    assert checkpointer.latest()[2]["iteration"] == 5


def test_what_was_just_written_stays_beside_higher_numbers(checkpointer):
    for iteration in (5, 10, 2):
        save(checkpointer, iteration)
    assert {path.name for path in checkpointer.folder.iterdir()} == {"iter_0000010", "iter_0000002", "last_checkpoint"}
    assert checkpointer.latest()[2]["iteration"] == 2


def test_the_umask_decides_who_may_read(checkpointer):
    folder = save(checkpointer, 5)
    assert all(file.stat().st_mode & 0o777 == 0o666 & ~_UMASK for file in folder.iterdir())


def test_existence(checkpointer):
    assert not checkpointer.exists() and checkpointer.latest() is None
    checkpointer.save_final({"weight": torch.zeros(1)})
    assert checkpointer.exists() and checkpointer.latest() is None


@pytest.mark.parametrize("name", ["checkpoints", "model_final"])
def test_a_file_in_place_of_a_folder_is_one_sentence_and_stays(tmp_path, checkpointer, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} is a file where a folder is to be"):
        Checkpointer(tmp_path, checkpointer.cfg)
    assert (tmp_path / name).read_text() == "mine"
