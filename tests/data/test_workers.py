import os
import signal
from multiprocessing import resource_sharer

import pytest

from maft.data.loader import build_test_loader
from maft.data.workers import worker_faults
from maft.errors import UserError

RECORDS = [{"file_name": f"images/{index}.jpg"} for index in range(3)]


def killed(record):
    if record["file_name"] == "images/1.jpg":
        os.kill(os.getpid(), signal.SIGKILL)
    return record


def broken(record):
    raise ValueError("zero-size array\nwith a second line")


def greedy(record):
    raise MemoryError


def parent(record):
    return {**record, "parent": os.getppid(), "interrupt": signal.getsignal(signal.SIGINT)}


def test_a_killed_worker_is_one_sentence():
    sentence = r"A process that reads images ended \(DataLoader worker .*DATALOADER.NUM_WORKERS"
    with pytest.raises(UserError, match=sentence), worker_faults():
        list(build_test_loader(RECORDS, killed, workers=1))


def test_a_worker_that_dies_while_it_hands_something_over_is_one_sentence(tmp_path):
    gone = resource_sharer.DupFd(os.open(os.devnull, os.O_RDONLY))
    gone._id = (str(tmp_path / "socket of a dead process"), 1)
    with pytest.raises(UserError, match="A process that reads images ended"), worker_faults():
        gone.detach()


def test_a_connection_of_another_kind_is_not_called_a_worker():
    with pytest.raises(ConnectionResetError), worker_faults():
        raise ConnectionResetError("of a download")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("mapper", "sentence"),
    [
        (broken, r"^images/0.jpg cannot be used \(ValueError at test_workers.py:\d+: zero-size array\)\.$"),
        (greedy, r"^images/0.jpg cannot be used \(memory ran out: use fewer DATALOADER.NUM_WORKERS"),
    ],
)
def test_any_fault_of_a_mapper_names_file_and_cause(workers, mapper, sentence):
    with pytest.raises(UserError, match=sentence):
        list(build_test_loader(RECORDS, mapper, workers=workers))


def test_workers_are_children_that_leave_interruptions_to_their_parent():
    (record,), *_ = build_test_loader(RECORDS, parent, workers=1)
    assert record["parent"] == os.getpid() and record["interrupt"] == signal.SIG_IGN


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("unable to open shared memory object </torch_1> in read-write mode"), "free /dev/shm"),
        (OSError(24, "Too many open files"), "ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
    ],
)
def test_what_cannot_be_shared_is_one_sentence(error, sentence):
    with pytest.raises(UserError, match=sentence), worker_faults():
        raise error


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="mat1 and mat2"), worker_faults():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
