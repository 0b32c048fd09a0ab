import errno
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from maft.engine.writers import NumberFiles
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
