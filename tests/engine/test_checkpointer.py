import pytest
import torch
from detectron2.config import get_cfg

from maft.config_keys import add_maft_config
from maft.engine.checkpointer import Checkpointer
from maft.errors import UserError


@pytest.fixture
def checkpointer(tmp_path):
    cfg = get_cfg()
    add_maft_config(cfg)
    return Checkpointer(tmp_path, cfg, keep=2)


def save(checkpointer, iteration):
    return checkpointer.save({"weight": torch.full((2,), float(iteration))}, {"iteration": iteration})


def test_the_last_two_stay_and_the_pointer_names_the_newest(checkpointer):
    for iteration in (5, 10, 15):
        save(checkpointer, iteration)
    assert sorted(path.name for path in checkpointer.folder.iterdir()) == [
        "iter_0000010",
        "iter_0000015",
        "last_checkpoint",
    ]
    weights, state = checkpointer.read(checkpointer.last())
    assert weights["weight"].tolist() == [15.0, 15.0]
    assert state["iteration"] == 15


def test_what_a_killed_writer_left_is_replaced(checkpointer):
    save(checkpointer, 5)
    leftover = checkpointer.folder / ".iter_0000010.tmp"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    complete_but_not_pointed_to = checkpointer.folder / "iter_0000010"
    complete_but_not_pointed_to.mkdir()
    assert checkpointer.last().name == "iter_0000005"
    save(checkpointer, 10)
    assert checkpointer.read(checkpointer.last())[1]["iteration"] == 10
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
        checkpointer.read(checkpointer.last())


def test_existence(checkpointer):
    assert not checkpointer.exists() and checkpointer.last() is None
    checkpointer.save_final({"weight": torch.zeros(1)})
    assert checkpointer.exists() and checkpointer.last() is None
