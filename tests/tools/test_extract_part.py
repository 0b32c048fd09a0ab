"""tools/extract_part.py keeps the parts it is told to."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

from maft.checkpoint.io import read_state_dict, write_safetensors

TOOL = str(Path(__file__).resolve().parents[2] / "tools" / "extract_part.py")


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", [TOOL, *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(TOOL, run_name="__main__")
    return stopped.value.code


def test_keeps_one_part_in_half_precision(tmp_path, monkeypatch):
    write_safetensors(tmp_path / "model.safetensors", {"proposer.a": torch.ones(2), "clip.b": torch.ones(3)})
    assert run(monkeypatch, tmp_path, tmp_path / "part.safetensors", "--parts", "proposer.") == 0
    kept = read_state_dict(tmp_path / "part.safetensors")
    assert list(kept) == ["proposer.a"] and kept["proposer.a"].dtype == torch.float16


def test_a_part_that_is_not_there_is_named(tmp_path, monkeypatch, capsys):
    write_safetensors(tmp_path / "model.safetensors", {"clip.b": torch.ones(3)})
    assert run(monkeypatch, tmp_path, tmp_path / "part.safetensors", "--parts", "proposer.") == 1
    assert "nothing below 'proposer.'" in capsys.readouterr().err
    assert not (tmp_path / "part.safetensors").exists()
