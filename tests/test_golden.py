"""Recorded cases of the official releases: the shipped selection always, all of them where MAFT_GOLDEN lies."""

import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from golden.case import GoldenCase, find_cases, supports
from golden.draws import RecordedDraws
from golden.roots import VARIABLE, Recordings
from golden.runner import compare, load_adaptors, run_case

SHIPPED = Path(__file__).parent / "golden"


def cases(folders):
    """One parameter a case, called system-name."""
    files = [file for folder in folders for file in find_cases(folder)]
    return [pytest.param(file, id=f"{file.parent.name}-{file.stem}") for file in files]


def complete_cases():
    recordings = Recordings()
    if not recordings:
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{VARIABLE} is not set"))]
    load_adaptors()
    # The shipped ones again: they may be recordings of other seeds and sizes.
    known, unknown = [], []
    for folder in recordings.systems():
        (known if supports(GoldenCase.read(find_cases(folder)[0]).system) else unknown).append(folder)
    # One unknown case of a known system fails; a system that the project does not have is named and skipped.
    marks = [pytest.param(f, id=f.name, marks=pytest.mark.skip(reason=f"no code for system {f.name}")) for f in unknown]
    return cases(known) + marks


def assert_passes(file):
    result = run_case(file)
    assert result.status == "pass", f"{result.detail}: error {result.error:.2e}, tolerance {result.tolerance:.2e}"
    assert result.tensors > 0


@pytest.mark.parametrize("file", cases(sorted(path for path in SHIPPED.iterdir() if path.is_dir())))
def test_shipped_case(file):
    assert_passes(file)


@pytest.mark.parametrize("file", complete_cases())
def test_case_of_the_complete_recordings(file):
    assert_passes(file)


def test_the_shipped_selection_stays_small():
    size = sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file())
    assert size < 12e6


def test_a_changed_recording_fails(tmp_path):
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


def case_of(tensors, **record):
    return GoldenCase(Path(), "maft", "a_case", record, tensors)


def test_a_per_tensor_tolerance_wins_over_the_rule_for_gradients():
    tensors = {"out/grad/w": torch.tensor([2.0]), "out/lr": torch.tensor(0.1)}
    rules = {"rtol": 1e-4, "atol": 1e-5, "grad": "max abs diff <= 1e-3 * max|expected gradient| per tensor"}
    assert case_of(tensors, tolerance=rules).tolerance("out/grad/w") == (1e-3, 0.0)
    own = case_of(tensors, tolerance=rules, per_tensor={"out/grad/w": {"shape": [1], "atol": 0.25}})
    assert own.tolerance("out/grad/w") == (0.0, 0.25)
    assert own.tolerance("out/loss") == (1e-4, 1e-5)
    updates = case_of(tensors, tolerance={"param_after": "max abs diff of the update <= 0.01 * out/lr"})
    assert updates.tolerance("out/param_after/w") == (0.0, pytest.approx(0.001))


def test_integers_are_exact_up_to_the_recorded_fraction():
    case = case_of({"out/labels": torch.tensor([1, 2, 3, 4])}, tolerance={"rtol": 0.5, "atol": 0.5})
    assert compare(case, {"labels": torch.tensor([1, 2, 3, 4])}).status == "pass"
    assert compare(case, {"labels": torch.tensor([1, 2, 3, 5])}).status == "fail"
    assert compare(case, {"labels": torch.tensor([1.0, 2.0, 3.0, 4.9])}).status == "fail"
    case.record["tolerance"]["integer_mismatch_fraction"] = 0.25
    assert compare(case, {"labels": torch.tensor([1, 2, 3, 5])}).status == "pass"


def test_outputs_that_are_missing_or_none_are_named():
    case = case_of({"out/a": torch.zeros(1), "out/b": torch.zeros(1)})
    assert compare(case, {"a": torch.zeros(1)}).detail == "outputs not computed: b"
    assert compare(case, {"a": torch.zeros(1), "b": None}).status == "fail"


def test_unofficial_tensors_are_compared_where_we_compute_them():
    case = case_of({"out/a": torch.zeros(1), "unofficial/b": torch.zeros(1)})
    assert compare(case, {"a": torch.zeros(1)}).tensors == 1
    assert compare(case, {"a": torch.zeros(1), "unofficial/b": torch.ones(1)}).status == "fail"


def test_tensors_with_gradient_are_compared_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compare(case_of({"out/a": torch.ones(2)}), {"a": torch.ones(2, requires_grad=True)}).status == "pass"


def test_draws_come_in_numerical_order():
    recorded = {f"in/rand/{number:03}_rand": torch.tensor([float(number)]) for number in (999, 1000, 101)}
    draws = RecordedDraws(case_of(recorded))
    assert [draws.rand(1, device=torch.device("cpu")).item() for _ in recorded] == [101.0, 999.0, 1000.0]


def test_a_json_without_a_system_takes_that_of_its_neighbours(tmp_path):
    (tmp_path / "checkpoint_keys.json").write_text(json.dumps({"file.pt": {"keys": {}}}))
    assert GoldenCase.read(tmp_path / "checkpoint_keys.json").system == tmp_path.name
    (tmp_path / "other.json").write_text(json.dumps({"system": "ovseg"}))
    assert GoldenCase.read(tmp_path / "checkpoint_keys.json").system == "ovseg"


def test_an_unknown_released_file_is_named(tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({"system": "maft"}))
    (tmp_path / "checkpoint_keys.json").write_text(json.dumps({"strange.pt": {"keys": {"a": [1, "float32"]}}}))
    result = run_case(tmp_path / "checkpoint_keys.json")
    assert result.status == "fail"
    assert "strange.pt is no released file known here" in result.detail


def test_several_roots_are_one(tmp_path, monkeypatch):
    for system in ("first/ovseg", "second/zsseg", "second/unheard"):
        (tmp_path / system).mkdir(parents=True)
        (tmp_path / system / "a.json").write_text("{}")
    monkeypatch.setenv(VARIABLE, os.pathsep.join(str(tmp_path / root) for root in ("first", "second")))
    recordings = Recordings()
    assert [folder.name for folder in recordings.systems()] == ["ovseg", "unheard", "zsseg"]
    assert (recordings / "zsseg" / "a.json").is_file() and recordings / "ovseg" == tmp_path / "first" / "ovseg"
    found = {parameter.id: parameter for parameter in complete_cases()}
    assert not found["ovseg-a"].marks and "no code for system unheard" in str(found["unheard"].marks)
