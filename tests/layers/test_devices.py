"""Devices that are there, and what is said of others."""

import pytest
import torch

from maft.errors import UserError
from maft.layers.devices import device_of

CPU = torch.device("cpu")


def test_devices():
    assert device_of("cpu") == device_of(CPU) == CPU
    for other in ("tpu", "", 3.5, None, "meta", "cuda:x"):
        with pytest.raises(UserError, match=r"The device .* is none of cpu, cuda"):
            device_of(other)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_devices_that_are_not_there(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=rf"The device is {device}, but .*: use cpu\."):
        device_of(device)
