"""Precisions that are there, and what is said of others."""

import logging

import pytest
import torch

from maft.errors import UserError
from maft.layers.precision import float32_products, has_tf32, precision_of, uses_tf32

CPU = torch.device("cpu")


def test_precisions(caplog):
    assert precision_of(None, CPU) is precision_of("float32", CPU) is precision_of(torch.float32, CPU) is None
    assert precision_of("bfloat16", CPU) == precision_of(torch.bfloat16, CPU) == torch.bfloat16
    for other in ("half", torch.float64, 16):
        with pytest.raises(UserError, match="is none of float32, float16, bfloat16"):
            precision_of(other, CPU)


def test_a_device_that_cannot_says_so_and_goes_on(caplog, monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    with caplog.at_level(logging.WARNING):
        assert precision_of("float16", CPU) is None
    assert caplog.messages == ["cpu cannot compute in float16 here: float32 is used."]


@pytest.fixture(params=[7, 8, 9])
def gpu(request, monkeypatch):
    """A GPU of a generation: Turing, Ampere or Hopper."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (request.param, 0))
    return torch.device("cuda", 0), request.param >= 8


def test_tf32_is_used_where_it_is_there_and_not_refused(gpu, caplog):
    device, there = gpu
    with caplog.at_level(logging.WARNING):
        assert has_tf32(device) == uses_tf32(None, device) == there
        assert not uses_tf32(False, device) and not uses_tf32(None, CPU)
        assert caplog.messages == []
        assert uses_tf32(True, device) == there
    assert caplog.messages == ([] if there else ["cuda:0 has no TensorFloat-32 here: float32 is used."])


def test_products_are_as_before_afterwards():
    def found():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = found()
    with float32_products(True):
        assert found() == ("high", True)
        with pytest.raises(ZeroDivisionError), float32_products(False):
            assert found() == ("highest", False)
            raise ZeroDivisionError
        assert found() == ("high", True)
    assert found() == before
