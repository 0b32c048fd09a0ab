"""Recorded cases of the official releases: the shipped selection always, all of them where MAFT_GOLDEN lies."""

import os
from pathlib import Path

import pytest

from maft.golden.case import find_cases
from maft.golden.runner import run_case

SHIPPED = Path(__file__).parent / "golden"


def cases(root):
    """One parameter a case, called system-name."""
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    files = [file for folder in folders for file in find_cases(folder)]
    return [pytest.param(file, id=f"{file.parent.name}-{file.stem}") for file in files]


def complete_cases():
    root = os.environ.get("MAFT_GOLDEN")
    if not root:
        return [pytest.param(None, marks=pytest.mark.skip(reason="MAFT_GOLDEN is not set"))]
    # The shipped ones again: they may be recordings of other seeds and sizes.
    return cases(Path(root))


def assert_passes(file):
    result = run_case(file)
    assert result.status == "pass", f"{result.detail}: error {result.error:.2e}, tolerance {result.tolerance:.2e}"
    assert result.tensors > 0


@pytest.mark.parametrize("file", cases(SHIPPED))
def test_shipped_case(file):
    assert_passes(file)


@pytest.mark.parametrize("file", complete_cases())
def test_case_of_the_complete_recordings(file):
    assert_passes(file)


def test_the_shipped_selection_stays_small():
    size = sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file())
    assert size < 12e6


def test_a_changed_recording_fails(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    source = SHIPPED / "maft" / "mask_aware_loss.json"
    tensors = load_file(source.with_suffix(".safetensors"))
    name = next(key for key, value in tensors.items() if key.startswith("out/") and value.is_floating_point())
    tensors[name] = tensors[name] + 0.1 * torch.ones_like(tensors[name])
    folder = tmp_path / "maft"
    folder.mkdir()
    (folder / source.name).write_text(source.read_text())
    save_file(tensors, folder / "mask_aware_loss.safetensors")
    result = run_case(folder / source.name)
    assert result.status == "fail"
    assert name.removeprefix("out/") in result.detail
