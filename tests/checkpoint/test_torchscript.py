"""TorchScript archives are read as data: the same tensors as the interpreter gives, and nothing of their code runs."""

import warnings
import zipfile

import pytest
import torch
from torch import nn

from maft.checkpoint.io import read_state_dict
from maft.checkpoint.torchscript import read_torchscript
from maft.errors import UserError


class Tower(nn.Module):
    """Of everything that a released archive holds: nested and shared modules, half precision, strides, other types."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.shared = self.stem[0]
        self.matrix = nn.Parameter(torch.randn(3, 4).half())
        self.sizes, self.width = [1, 2], 3
        self.register_buffer("indices", torch.arange(4))
        self.register_buffer("brain", torch.randn(3).bfloat16())
        self.register_buffer("transposed", torch.randn(3, 5).t())
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("scale", torch.tensor(2.5))

    def forward(self, x):
        return self.shared(x).sum() + self.matrix.sum()


class Writes(nn.Module):
    def __init__(self, path: str):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.path = path

    @torch.jit.export
    def __getstate__(self):
        return (self.weight, self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]):
        self.weight = state[0]
        self.path = state[1]
        self.training = state[2]
        torch.save(state[0], state[1])

    def forward(self, x: torch.Tensor):
        return x + self.weight


def archive(module, path, *, trace=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(module, torch.zeros(1, 3, 8, 8)) if trace else torch.jit.script(module)
        scripted.save(str(path))
    return path


@pytest.mark.parametrize("trace", [False, True])
def test_the_same_tensors_as_the_interpreter(tmp_path, trace):
    file = archive(Tower().eval(), tmp_path / "tower.pt", trace=trace)
    read, expected = read_torchscript(file), torch.jit.load(str(file)).state_dict()
    assert read.keys() == expected.keys()
    for name, value in expected.items():
        assert read[name].dtype == value.dtype and torch.equal(read[name], value), name
    assert read_state_dict(file).keys() == expected.keys()


def test_code_is_not_run(tmp_path):
    target = tmp_path / "written"
    file = archive(Writes(str(target)), tmp_path / "writes.pt")
    target.unlink(missing_ok=True)
    with pytest.raises(UserError, match="no named tensors"):
        read_state_dict(file)
    assert not target.exists()


def test_a_pickle_that_calls_something_is_refused(tmp_path):
    file = archive(Tower(), tmp_path / "tower.pt")
    other = tmp_path / "other.pt"
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(other, "w") as changed:
        for name in source.namelist():
            content = source.read(name)
            changed.writestr(name, b"cos\nsystem\n(S'true'\ntR." if name.endswith("data.pkl") else content)
    with pytest.raises(UserError, match="not a plain TorchScript archive"):
        read_torchscript(other)


def test_a_cut_archive(tmp_path):
    file = archive(Tower(), tmp_path / "tower.pt")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated"):
        read_state_dict(file)
