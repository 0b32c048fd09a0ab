import json
import threading
import time

import pytest
import torch.distributed as dist

from maft.engine import watching
from maft.engine.watching import LostConnection, Watch
from maft.errors import UserError


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(watching, "_BEAT", 0.02)
    server = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    return lambda: dist.TCPStore("localhost", server.port, is_master=False, wait_for_workers=False)


@pytest.fixture
def place(monkeypatch):
    def at(passed, name="iteration 5"):
        monkeypatch.setattr(watching, "_progress", watching._Progress(passed, name))

    return at


def two(store, timeout=0.4):
    """Two watches that have met, and what they were ended with."""
    ended = []
    watches = [Watch(store(), rank, 2, timeout, ended.append) for rank in range(2)]
    threads = [threading.Thread(target=watch.wait_for_all) for watch in watches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return watches, ended


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_a_silent_process_is_named_and_then_the_waiting_one_ends(store, capsys):
    (watch, _), ended = two(store)
    with watch.watching():
        wait_for(lambda: ended)
    text = capsys.readouterr().err
    assert "Waiting for process 1 (pid " in text and "which gives no sign of life" in text
    assert ended[0].startswith("Waited 0.00666667 minutes for process 1 (pid ")


def test_who_is_behind_is_named_with_the_place(store, place, capsys):
    (watch, other), _ = two(store)
    place(7)
    said = ""
    with watch.watching():
        for beat in range(500):
            # Both are in one process here, which has one place.
            sign = ["alive", beat, 3, "reading the batch of iteration 5", other.name]
            other.store.set("sign_1", json.dumps(sign))
            time.sleep(0.02)
            said += capsys.readouterr().err
            if said:
                break
    assert f"Waiting for {other.name}, which is still at reading the batch of iteration 5: the run ends" in said


def test_processes_at_the_same_place_say_nothing(store, capsys):
    (watch, other), ended = two(store, timeout=0.2)
    with watch.watching(), other.watching():
        time.sleep(0.6)
    assert capsys.readouterr().err == "" and not ended


@pytest.mark.parametrize("failure", [UserError, ValueError])
def test_who_failed_is_known_and_who_lost_it_is_not_blamed(store, failure):
    (watch, other), _ = two(store)
    with watch.watching():
        with pytest.raises(failure), other.watching():
            raise failure("no")
        assert watch.gone() == other.name
        with pytest.raises(LostConnection), watch.watching():
            raise LostConnection("it went")
        assert other.gone() == ""


def test_a_killed_process_is_known_by_its_silence(store):
    (watch, other), _ = two(store)
    with watch.watching():
        assert watch.gone() == other.name


def test_the_one_that_never_starts_is_named(store, capsys):
    with pytest.raises(TimeoutError, match="processes 0, 2 of 3 did not start within 0.005 minutes"):
        Watch(store(), 1, 3, 0.3, print).wait_for_all()
    assert capsys.readouterr().err.startswith(
        "Waiting for processes 0, 2 of 3 to start, 0 s so far: the run ends after"
    )


def test_a_number_given_twice_and_another_size_are_refused(store):
    two(store)
    with pytest.raises(UserError, match="two processes 1: give each machine its own --machine-rank"):
        Watch(store(), 1, 2, 1, print).wait_for_all()
    with pytest.raises(UserError, match="was started as one of 3, another one as one of 2"):
        Watch(store(), 2, 3, 1, print).wait_for_all()


def test_without_the_store_the_process_is_asked_to_stop_and_then_ended(store, monkeypatch):
    (watch, _), ended = two(store, timeout=0.2)
    signals = []
    monkeypatch.setattr(watching.os, "kill", lambda pid, number: signals.append(number))

    def lost(*arguments):
        raise RuntimeError("Connection reset by peer")

    with watch.watching():
        monkeypatch.setattr(watch, "_sign", lost)
        wait_for(lambda: ended)
    assert signals == [watching.signal.SIGTERM] and "started the processes is gone" in ended[0]
