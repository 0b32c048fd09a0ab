import socket

import pytest

from maft.engine.meeting import Member, _connect, joined
from maft.errors import UserError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


@pytest.fixture
def environment(monkeypatch):
    def set_variables(**variables):
        for name in (*TORCHRUN, "LOCAL_WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_without_a_launcher_there_is_no_member(environment):
    environment(RANK="0")
    assert Member.from_environment() is None


def test_a_process_of_torchrun_reads_its_place_and_attempt(environment):
    environment(**TORCHRUN, LOCAL_WORLD_SIZE="2", TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="2")
    assert Member.from_environment() == Member(3, 4, 1, 2, "node0", 29500, attempt=2)


@pytest.mark.parametrize(("agent", "hosts"), [("True", False), ("False", True)])
def test_the_first_process_hosts_the_store_unless_an_agent_does(environment, agent, hosts):
    environment(**{**TORCHRUN, "RANK": "0"}, TORCHELASTIC_USE_AGENT_STORE=agent)
    assert Member.from_environment().hosts_store is hosts


def test_variables_that_are_no_numbers(environment):
    environment(**{**TORCHRUN, "RANK": "first"})
    with pytest.raises(UserError, match=r"RANK.* is no number \(invalid literal"):
        Member.from_environment()


def test_nobody_answers(capsys):
    member = Member(1, 2, 1, 2, "localhost", free_port())
    with pytest.raises(UserError, match=r"The 2 processes cannot meet at localhost:\d+ \(.*refused\): start process 0"):
        _connect(member, 0.3)
    assert "Process 1 waits for process 0 at localhost:" in capsys.readouterr().err


def test_an_unknown_machine_is_not_waited_for():
    with pytest.raises(UserError, match="cannot meet at no.such.machine.invalid:1 "):
        _connect(Member(1, 2, 1, 2, "no.such.machine.invalid", 1), 600)


def test_a_process_without_a_gpu(monkeypatch):
    monkeypatch.setattr("maft.engine.meeting.torch.cuda.device_count", lambda: 1)
    with (
        pytest.raises(UserError, match=r"Process 1 of this machine has no GPU \(there are 1\)"),
        joined(Member(1, 2, 1, 2, "localhost", 1), "cuda", 1, print),
    ):
        pass


def test_one_process_joins_itself_and_leaves():
    with joined(Member(0, 1, 0, 1, "localhost", free_port(), hosts_store=True), "cpu", 5, print):
        pass
