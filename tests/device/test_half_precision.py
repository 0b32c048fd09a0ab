"""What mixed precision leaves in float32, on a GPU that is not there: losses, matching and comparison with texts."""

from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from device.test_recipes import QUICKSTART, built, sample, texts_are_known  # noqa: F401 - a fixture
from host_reads import FakeDevice, caller
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maft.config import load_config

FLOAT32 = ("matching.py", "losses/", "proposals/criterion.py", "structures.py::TextClassifier", "clip/vocabulary.py")
# They give numbers another type, shape or place, and compute none.
MOVES = {
    "_to_copy", "alias", "as_strided", "cat", "clone", "copy_", "detach", "device", "empty_like", "expand", "index",
    "new_zeros", "permute", "select", "slice", "split", "split_with_sizes", "stack", "t", "transpose", "unbind",
    "unsqueeze", "view", "zeros_like",
}  # fmt: skip


class HalfOperations(TorchDispatchMode):
    """Counts operations on bfloat16 by the nearest function of the package."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = (one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor))
        if any(one.dtype == torch.bfloat16 for one in tensors):
            self.found[caller(), func.overloadpacket.__name__] += 1
        return func(*args, **kwargs)


@contextmanager
def bfloat16_on_the_fake_device():
    # `torch.autocast` itself refuses a device that is not there.
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


# Matching of proposals, overlaps with proposals, overlaps of pairs.
@pytest.mark.parametrize("recipe", ["proposer", "maft_plus", "mask_adapter"])
def test_losses_and_matching_compute_in_float32(recipe):
    device = FakeDevice()
    model = built(device, load_config(QUICKSTART / f"{recipe}.yaml")).train()
    batch = device.moved([sample(96, 96, 3), sample(80, 64, 2)])
    with bfloat16_on_the_fake_device(), device.noting(), HalfOperations() as half:
        losses = model(batch)
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert half.found, "the model did not compute in bfloat16"
    wrong = [place for place in half.found if place[0].startswith(FLOAT32) and place[1] not in MOVES]
    assert sorted(wrong) == []
