"""Jobs in several processes: order, errors, and no process left when the run is killed."""

import os
import signal
import time
from pathlib import Path

import pytest

from maft.data.preparation.command import only_one
from maft.data.preparation.jobs import read_list, run_jobs
from maft.errors import UserError


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    if number == 20:
        raise UserError("20 is refused.")
    return number


def announce_and_wait(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def test_lists_are_read_as_saved_by_any_editor(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_bytes("\ufeff2007_1\r\n\r\nJPEGImages/\u00fc.jpg x\n".encode())
    assert read_list(tmp_path / "val.txt") == ["2007_1", "JPEGImages/\u00fc.jpg"]


@pytest.mark.parametrize(("content", "complaint"), [(b"\xff\xfe2\0", "is no UTF-8 text"), (b"\n \n", "is empty")])
def test_lists_of_nothing(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "val.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"Image list .*val\.txt {complaint}"):
        read_list(tmp_path / "val.txt")


def test_results_keep_the_order() -> None:
    numbers = list(range(100))
    assert run_jobs(square, numbers, workers=2, description="") == [square(number) for number in numbers]


def test_an_error_crosses_processes() -> None:
    with pytest.raises(UserError, match="20 is refused"):
        run_jobs(refuse, list(range(100)), workers=2, description="")


def test_workers_end_with_a_killed_run(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        run_jobs(announce_and_wait, [tmp_path] * 64, workers=2, description="")
        os._exit(0)
    workers: list[int] = []
    deadline = time.monotonic() + 30
    while len(workers) < 2 and time.monotonic() < deadline:
        workers = [int(path.name) for path in tmp_path.iterdir()]
        time.sleep(0.05)
    assert len(workers) == 2
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while any(_runs(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_runs(worker) for worker in workers)


def test_a_second_preparation_of_a_set_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with only_one(tmp_path, "voc"):
            (tmp_path / "holds").touch()
            time.sleep(60)
        os._exit(0)
    deadline = time.monotonic() + 30
    while not (tmp_path / "holds").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        with pytest.raises(UserError, match="Another process prepares voc"), only_one(tmp_path, "voc"):
            pass
        with only_one(tmp_path, "ade150"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with only_one(tmp_path, "voc"):
        pass


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"
