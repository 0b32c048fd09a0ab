"""Weights files are what their content says, and other files are called what they are."""

import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from maft.checkpoint.formats import format_of
from maft.checkpoint.io import read_state_dict
from maft.errors import UserError

STATE = {"a": torch.ones(2, 3), "b.c": torch.zeros(4)}


def content(kind, tmp_path):
    if kind == "safetensors":
        return save(STATE)
    if kind == "pickle":
        return pickle.dumps({"model": {name: value.numpy() for name, value in STATE.items()}})
    torch.save(STATE, tmp_path / "w", _use_new_zipfile_serialization=kind == "torch")
    return (tmp_path / "w").read_bytes()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin", ".pkl", ""])
@pytest.mark.parametrize("kind", ["safetensors", "torch", "old torch", "pickle"])
def test_the_name_does_not_matter(tmp_path, kind, suffix):
    (tmp_path / f"weights{suffix}").write_bytes(content(kind, tmp_path))
    assert format_of(tmp_path / f"weights{suffix}") == kind.removeprefix("old ")
    read = read_state_dict(tmp_path / f"weights{suffix}")
    assert read.keys() == STATE.keys() and all(torch.equal(read[name], value) for name, value in STATE.items())


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b"\0" * 100, "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a pointer of Git LFS .* git lfs pull"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"\x1f\x8b\x08\x00\x00", "is compressed with gzip"),
        (b"PK\x03\x04 nonsense", "truncated or not a checkpoint"),
        (b"just a text of some length", "is not a checkpoint"),
        (struct.pack("<Q", 10**15) + b'{"a": 1}', "not a readable safetensors file"),
        (struct.pack("<Q", 99_000_000) + b'{"a": 1}', "not a readable safetensors file"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_other_files_are_called_what_they_are(tmp_path, data, sentence, suffix):
    (tmp_path / f"w{suffix}").write_bytes(data)
    with pytest.raises(UserError, match=sentence) as raised:
        read_state_dict(tmp_path / f"w{suffix}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("script", [False, True])
def test_archives_that_unpack_to_far_more_are_refused(tmp_path, script):
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", pickle.dumps({}))
        archive.writestr("w/data/0", bytes(50 << 20))
        if script:
            archive.writestr("w/constants.pkl", pickle.dumps(()))
    with pytest.raises(UserError, match=r"would unpack from \d+ to \d+ bytes, which no checkpoint does"):
        read_state_dict(tmp_path / "w.pth")


def test_tensors_larger_than_the_file_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"has \d+ bytes and claims tensors of 4398046511104"):
        read_state_dict(tmp_path / "w.pth")


class _Large:
    def __reduce__(self):
        return np.ndarray, ((1 << 40,),)


def test_arrays_larger_than_the_file_are_refused(tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": _Large()}))
    with pytest.raises(UserError, match="claims tensors of|is not plain data"):
        read_state_dict(tmp_path / "w.pkl")
