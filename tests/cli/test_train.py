"""How a training and an evaluation are called; what they do has tests of its own."""

import pytest

from maft.cli import evaluate, train
from maft.engine import launch, training
from maft.errors import UserError


@pytest.fixture
def started(monkeypatch):
    """What would run: function, config, eval_only, resume, processes."""
    calls = []
    monkeypatch.setattr(launch, "launch", lambda function, given, processes, imports: calls.append((given, processes)))
    return calls


@pytest.mark.parametrize("words", [["--config-file", "quickstart/maft"], ["quickstart/maft"]])
def test_a_config_by_its_flag_or_first_of_all(started, words):
    train.main([*words, "SOLVER.MAX_ITER", "7", "--num-gpus", "0", "SEED", "5"])
    ((cfg, eval_only, resume), processes) = started[0]
    assert (cfg.SOLVER.MAX_ITER, cfg.SEED, eval_only, resume) == (7, 5, False, False)
    assert (processes.device, processes.per_machine, cfg.MODEL.DEVICE) == ("cpu", 1, "cpu")


def test_evaluate_is_the_same_with_eval_only(started):
    words = ["--config-file", "quickstart/maft", "--resume", "--num-gpus", "0", "--num-processes", "2"]
    evaluate.main(words)
    evaluate.main(["--eval-only", *words])
    train.main(["--eval-only", *words])
    assert len({str(call) for call in started}) == 1
    ((_, eval_only, resume), processes) = started[0]
    assert eval_only and resume and processes.per_machine == 2


@pytest.mark.parametrize("command", [train, evaluate])
def test_a_config_is_asked_for(started, command):
    with pytest.raises(UserError, match="name a config.*maft configs.*--help"):
        command.main(["--resume"])
    with pytest.raises(UserError, match="'SEED' has no value"):
        command.main(["quickstart/maft", "SEED"])
    assert not started


def test_the_run_is_that_of_the_engine(monkeypatch):
    functions = []
    monkeypatch.setattr(launch, "launch", lambda function, *_, **__: functions.append(function))
    train.main(["quickstart/maft", "--num-gpus", "0"])
    assert functions == [training.run]
