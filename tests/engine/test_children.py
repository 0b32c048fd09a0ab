import signal
from types import SimpleNamespace

import pytest

from maft.engine.children import _report
from maft.errors import UserError


class Mistakes(list):
    def empty(self):
        return not self

    def get(self):
        return self.pop(0)


def failures(**statuses):
    return {int(name[1:]): SimpleNamespace(pid=70 + int(name[1:]), exitcode=code) for name, code in statuses.items()}


@pytest.mark.parametrize(
    ("failed", "said", "sentence"),
    [
        (failures(_0=1, _1=1), [(0, True, "lost 1"), (1, False, "own")], "^own$"),
        (failures(_0=1, _1=-9), [(0, True, "lost 1")], r"^Process 1 \(pid 71\) was killed \(SIGKILL\)"),
        (failures(_0=-90), [], r"Process 0 \(pid 70\) was killed \(signal 90\)"),
        (failures(_0=1), [(0, True, "lost 4 on another machine")], "^lost 4"),
        (failures(_0=1, _1=1), [(0, True, "lost 1")], r"^Process 1 \(pid 71\) failed with status 1"),
        (failures(_1=1), [], r"^Process 1 \(pid 71\) failed with status 1: its own message is above"),
    ],
)
def test_the_cause_is_reported(failed, said, sentence):
    with pytest.raises(UserError, match=sentence):
        _report(failed, Mistakes(said), 0)


@pytest.mark.parametrize(
    ("failed", "asked", "status"),
    [
        (failures(_0=143), 0, 143),
        (failures(_0=-15, _1=143), 0, 143),
        (failures(_0=130, _1=130), 0, 130),
        (failures(_0=143, _1=143), signal.SIGINT, 130),
    ],
)
def test_a_stop_that_was_asked_for_has_the_status_that_shells_expect(failed, asked, status):
    with pytest.raises(SystemExit) as stopped:
        _report(failed, Mistakes([(0, True, "lost")]), asked)
    assert stopped.value.code == status
