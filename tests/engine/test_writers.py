import errno
import logging
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from maft.engine.writers import NumberFiles, ProgressLine
from maft.errors import UserError


class Writer:
    def __init__(self, error=None):
        self.error, self.calls = error, []

    def write(self):
        self.calls.append("write")
        if self.error:
            raise self.error

    def close(self):
        self.calls.append("close")


def files(writers, *, period=1, iteration=0):
    hook = NumberFiles({Path(f"{place}.json"): writer for place, writer in enumerate(writers)}, period)
    hook.trainer = SimpleNamespace(iter=iteration, max_iter=7)
    return hook


def test_a_full_disk_is_said_once_and_ends_the_writing():
    writers = [Writer(), Writer(OSError(errno.ENOSPC, "x"))]
    hook = files(writers)
    hook.before_train()
    with pytest.raises(UserError, match=r"^cannot write 1\.json: No space left on device; free some"):
        hook.after_step()
    hook.after_train()
    assert [writer.calls for writer in writers] == [["write"], ["write"]]


@pytest.mark.parametrize(("iteration", "written"), [(0, False), (2, True), (3, False), (6, True)])
def test_each_period_and_the_last_iteration_are_written(iteration, written):
    writer = Writer()
    files([writer], period=3, iteration=iteration).after_step()
    assert writer.calls == ["write"] * written


def test_what_came_last_is_written_before_the_end():
    writer = Writer()
    files([writer]).after_train()
    assert writer.calls == ["write", "close"]


def test_a_thread_on_a_full_disk_is_silent_and_others_are_not(monkeypatch):
    said = []
    monkeypatch.setattr(threading, "excepthook", before := lambda failure: said.append(failure.exc_type))
    hook = files([])
    hook.before_train()
    for error in (OSError(errno.ENOSPC, "x"), ValueError("seen")):
        thread = threading.Thread(target=_raise, args=(error,))
        thread.start()
        thread.join()
    hook.after_train()
    assert threading.excepthook is before
    assert said == [ValueError]


def _raise(error):
    raise error


@pytest.fixture
def lines(caplog):
    """Function: the lines of a run of two iterations of 0.5 s with a batch of 6."""
    caplog.set_level(logging.INFO)

    def run(*, timed):
        writer = ProgressLine(4, batch=6, period=2)
        with EventStorage(0) as storage:
            for storage.iter in range(2):
                storage.put_scalars(total_loss=3.0 - storage.iter, loss_pairs=1.0, lr=0.01, data_time=0.25)
                if timed:
                    storage.put_scalar("time", 0.5)
            writer.write()
            # A run that ends in an iteration that was written asks for it again.
            writer.write()
            storage.iter = 4
            writer.write()
            numbers = storage.latest()
        return [record.getMessage() for record in caplog.records], numbers

    return run


def test_one_line_has_losses_rate_time_left_speed_and_memory(lines):
    (line,), numbers = lines(timed=True)
    assert re.fullmatch(
        r"iteration 2/4  total_loss 2\.5  loss_pairs 1  lr 0\.01  eta 0:00:01  0\.500 s/it  12 images/s  data 0\.250 s"
        r"  peak \d+ MiB",
        line,
    )
    assert numbers["images_per_second"][0] == 12 and numbers["eta_seconds"][0] == 1
    # Python alone with torch is larger than 50 MiB.
    assert 50 < numbers["peak_memory_mib"][0] < 10**6


def test_a_run_of_few_iterations_has_no_time_to_speak_of(lines):
    (line,), _ = lines(timed=False)
    assert "eta" not in line and "s/it" not in line and "peak" in line
