import signal

import torch

from maft.engine.step_numbers import Step, StepNumbers


def put(numbers, iteration, asked=0):
    numbers.put(iteration, {"loss": torch.tensor(iteration / 2), "norm": torch.tensor(3.0)}, 0.25, asked)


def test_numbers_come_in_order_and_the_last_ones_later():
    numbers = StepNumbers(torch.device("cpu"))
    for iteration in range(4):
        put(numbers, iteration)
    assert [step.iteration for step in numbers.take(behind=2)] == [0, 1]
    assert list(numbers.take(behind=2)) == []
    put(numbers, 4, asked=signal.SIGTERM)
    found = list(numbers.take())
    assert [step.iteration for step in found] == [2, 3, 4]
    assert found[-1] == Step(4, {"loss": 2.0, "norm": 3.0}, 0.25, signal.SIGTERM)
    assert found[0].signal == 0


def test_either_signal_is_told():
    numbers = StepNumbers(torch.device("cpu"))
    put(numbers, 0, asked=signal.SIGINT)
    assert [step.signal for step in numbers.take()] == [signal.SIGINT]
