"""Reading weights safely and writing them whole."""

import numpy as np
import pytest
import torch
from torch import nn

from maft.checkpoint.io import read_metadata, read_state_dict, write_safetensors
from maft.errors import UserError


def test_safetensors_keep_values_and_metadata(tmp_path):
    shared = torch.randn(3)
    write_safetensors(tmp_path / "model.safetensors", {"a": shared, "b": shared}, {"step": 3})
    assert torch.equal(read_state_dict(tmp_path)["b"], shared)
    assert read_metadata(tmp_path / "model.safetensors") == {"step": "3"}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s, "epoch": 3}])
def test_torch_files_are_unwrapped(tmp_path, wrap):
    torch.save(wrap({"module.w": torch.ones(2)}), tmp_path / "x.pt")
    assert read_state_dict(tmp_path / "x.pt")["w"].tolist() == [1, 1]


def test_torchscript_archives_are_read(tmp_path):
    torch.jit.script(nn.Linear(2, 1)).save(str(tmp_path / "x.pt"))
    assert set(read_state_dict(tmp_path / "x.pt")) == {"weight", "bias"}


class _Malicious:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_code_is_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": _Malicious()}, "x.pt")
    with pytest.raises(UserError, match="would execute code"):
        read_state_dict("x.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_broken_files_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(UserError, match="not a"):
        read_state_dict(tmp_path / name)


def test_truncated_files_are_refused(tmp_path):
    torch.save({"w": torch.randn(1000)}, tmp_path / "x.pt")
    content = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="truncated or not a checkpoint"):
        read_state_dict(tmp_path / "x.pt")


def test_missing_file_and_file_without_tensors(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_state_dict(tmp_path / "none.pt")
    torch.save({"epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="no named tensors"):
        read_state_dict(tmp_path / "x.pt")


def test_numpy_arrays_become_tensors(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", {"a": torch.from_numpy(np.arange(3))})
    assert read_state_dict(tmp_path / "x.safetensors")["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "names",
    [
        ("module.clip.a", "module.proposer.b"),
        ("module.clip.a", "proposer.b"),
        ("_orig_mod.clip.a", "_orig_mod.proposer.b"),
        ("clip.a", "proposer._orig_mod.b"),
        ("module._orig_mod.clip.a", "_orig_mod.module.proposer.b"),
        ("model.clip.a", "model.proposer.b"),
        ("model.module.clip.a", "module.model._orig_mod.proposer.b"),
    ],
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_wrappers_put_before_names_is_taken_off(tmp_path, names, suffix):
    state = {name: torch.ones(2) for name in names}
    if suffix == "pt":
        torch.save(state, tmp_path / "x.pt")
    else:
        write_safetensors(tmp_path / "x.safetensors", state)
    assert set(read_state_dict(tmp_path / f"x.{suffix}")) == {"clip.a", "proposer.b"}


def test_names_that_differ_in_a_prefix_alone_are_refused(tmp_path):
    torch.save({"module.a": torch.ones(2), "a": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="holds a twice, with and without a prefix"):
        read_state_dict(tmp_path / "x.pt")


def test_a_clip_by_itself_keeps_its_names(tmp_path):
    state = {"model.logit_scale": torch.ones(()), "model.visual.a": torch.ones(2)}
    write_safetensors(tmp_path / "x.safetensors", state)
    assert read_state_dict(tmp_path / "x.safetensors").keys() == state.keys()


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (torch.ones(2).to_sparse(), "holds a sparse or empty tensor under w"),
        (torch.ones(2, dtype=torch.complex64), "holds a complex tensor under w"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "holds a quantised tensor under w"),
        (torch.ones(2, device="meta"), "holds a sparse or empty tensor under w|no numbers under w|not a checkpoint"),
    ],
)
def test_tensors_of_other_kinds_are_refused(tmp_path, value, sentence):
    torch.save({"w": value}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=sentence):
        read_state_dict(tmp_path / "x.pt")
