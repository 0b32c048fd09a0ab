import pytest
import torch
from detectron2.config import get_cfg

from maft.config_keys import add_maft_config
from maft.engine.checkpointer import Checkpointer
from maft.errors import UserError
from maft.files import _UMASK


@pytest.fixture
def checkpointer(tmp_path):
    cfg = get_cfg()
    add_maft_config(cfg)
    return Checkpointer(tmp_path, cfg, keep=2)


STATE = {"seed": 0, "optimizer": {}, "scaler": {}, "loader": {}}


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


def test_what_a_killed_writer_left_is_replaced(checkpointer):
    save(checkpointer, 5)
    leftover = checkpointer.folder / ".iter_0000010.tmp"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    complete_but_not_pointed_to = checkpointer.folder / "iter_0000010"
    complete_but_not_pointed_to.mkdir()
    assert checkpointer.latest()[0].name == "iter_0000005"
    save(checkpointer, 10)
    assert checkpointer.latest()[2]["iteration"] == 10
    assert not list(checkpointer.folder.glob(".*"))


def test_a_failed_write_leaves_nothing_half(checkpointer):
    save(checkpointer, 5)

    class Unwritable:
        def __reduce__(self):
            raise RuntimeError("disk full")

    with pytest.raises(UserError, match="disk full"):
        checkpointer.save({"weight": torch.zeros(1)}, {"iteration": 10, "state": Unwritable()})
    assert sorted(path.name for path in checkpointer.folder.iterdir()) == ["iter_0000005", "last_checkpoint"]


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
