"""What a run answers when it is asked to stop; whole runs are asked in test_training.py and robustness."""

import os
import signal
import sys

import pytest

from maft.engine.stopping import StopRequest, again, stopping_at_once


def ask(number=signal.SIGINT):
    os.kill(os.getpid(), number)


def test_a_first_request_is_answered_and_noted_and_a_second_ctrl_c_interrupts(capfd):
    request = StopRequest("Finishing.")
    with request.noted():
        ask()
        assert request.signal == signal.SIGINT
        ask(signal.SIGTERM)
        assert request.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            ask()
    assert capfd.readouterr().err == "\nFinishing.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_where_nothing_is_lost_the_first_request_ends_the_process_with_the_way_to_go_on(capfd, number):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, stopping_at_once("Go on so."):
        ask(number)
    assert ended.value.code == 128 + number and capfd.readouterr().err == "\nGo on so.\n"
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/usr/bin/maft", "train", "--config-file", "a b.yaml"], "maft train --config-file 'a b.yaml' --resume"),
        (["/x/maft/__main__.py", "train"], "python -m maft train --resume"),
        (["tools/train_net.py", "--resume", "A", "1"], "python tools/train_net.py --resume A 1"),
        (["/x/ipykernel/__main__.py", "-f", "kernel.json"], "--resume"),
    ],
)
def test_the_command_to_go_on_is_the_one_of_this_process(monkeypatch, arguments, command):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(sys, "argv", arguments)
    assert again("--resume") == command


def test_under_torchrun_its_own_options_are_left_to_the_reader(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setattr(sys, "argv", ["train_net.py", "A"])
    assert again("TEST.RESUME", "True") == "torchrun ... train_net.py A TEST.RESUME True"
