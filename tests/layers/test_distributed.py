import pytest

from maft.errors import UserError
from maft.layers import distributed
from maft.layers.distributed import same_everywhere


@pytest.fixture
def processes(monkeypatch):
    """Processes that call with the given values, this one first."""

    def set_others(*others):
        monkeypatch.setattr(distributed.comm, "all_gather", lambda own: [own, *others])

    return set_others


def test_equal_values_and_one_process_pass(processes):
    same_everywhere({"rate": 0.1}, "unused")
    processes({"rate": 0.1}, {"rate": 0.1})
    same_everywhere({"rate": 0.1}, "unused")


def test_what_differs_is_named_with_its_values(processes):
    processes({"rate": 0.1, "seed": 1}, {"rate": 0.2, "seed": 2})
    with pytest.raises(UserError) as caught:
        same_everywhere({"rate": 0.1, "seed": 1}, "start all alike")
    assert str(caught.value) == (
        "The processes of this run differ: rate is 0.1 in process 0 and 0.2 in process 2 (and 1 more differ): "
        "start all alike."
    )


def test_a_value_that_one_lacks(processes):
    processes({})
    with pytest.raises(UserError, match="rate is 0.1 in process 0 and None in process 1: start all alike"):
        same_everywhere({"rate": 0.1}, "start all alike")
