"""The set-up scripts' answers to mistakes, and that they leave alone what is there already."""

import json
import re
import subprocess
import sys
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def run(script, *arguments):
    command = [sys.executable, str(ROOT / "tools" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def old_python(tmp_path):
    path = tmp_path / "python3.9"
    path.write_text("#!/bin/sh\necho 3 9 18\n")
    path.chmod(0o755)
    return path


def assert_one_error(result, *words):
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_an_interpreter_that_is_not_there(tmp_path):
    result = run("setup_env.py", "--venv", tmp_path / "env", "--python", "/no/such/python")
    assert_one_error(result, "/no/such/python", "PYTHON=")
    assert not (tmp_path / "env").exists()


def test_an_interpreter_that_is_too_old(tmp_path, old_python):
    result = run("setup_env.py", "--venv", tmp_path / "env", "--python", old_python)
    assert_one_error(result, "3.9.18", "3.10 to 3.13")
    assert not (tmp_path / "env").exists()


def test_an_environment_of_another_python_is_not_touched(tmp_path):
    other = "3.13.0" if sys.version_info[:2] != (3, 13) else "3.12.0"
    folder = tmp_path / "env" / "bin"
    folder.mkdir(parents=True)
    fake = folder / "python"
    fake.write_text(f"#!/bin/sh\necho {other.replace('.', ' ')}\n")
    fake.chmod(0o755)
    result = run("setup_env.py", "--venv", tmp_path / "env", "--python", sys.executable)
    assert_one_error(result, other, "VENV=")
    assert [path.name for path in (tmp_path / "env").iterdir()] == ["bin"]


def test_a_folder_with_other_things_is_never_cleared(tmp_path):
    (tmp_path / "thesis.tex").touch()
    assert_one_error(run("setup_env.py", "--venv", tmp_path), str(tmp_path), "no virtual environment")
    assert (tmp_path / "thesis.tex").exists()


def test_an_environment_that_is_up_to_date_returns_at_once(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import setup_env

    env = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    (next(env.glob("lib/python*/site-packages")) / "pip.py").touch()
    stamp = setup_env.fingerprint(tuple(sys.version_info[:3]), "dev", None, False)
    (env / setup_env.STAMP_NAME).write_text(json.dumps(stamp))
    result = run("setup_env.py", "--venv", env)
    assert result.returncode == 0, result.stderr
    assert "is up to date" in result.stdout
    assert "install" not in result.stdout


def test_detectron2_that_is_there_is_left_alone():
    result = run("install_detectron2.py")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Detectron2 is there already: ")


def test_a_folder_that_is_no_checkout(tmp_path):
    assert_one_error(run("install_detectron2.py", "--checkout", tmp_path), str(tmp_path), "not a Detectron2 checkout")


def test_the_lock_holds_every_dependency_with_its_hashes():
    locked: dict[str, list[Requirement]] = {}
    for entry in (ROOT / "requirements.lock").read_text().replace("\\\n", "").splitlines():
        if entry.startswith("#"):
            continue
        requirement, *hashes = entry.split(" --hash=sha256:")
        assert hashes and all(len(digest.strip()) == 64 for digest in hashes), requirement
        parsed = Requirement(requirement.strip())
        locked.setdefault(parsed.name.lower(), []).append(parsed)
    assert {"setuptools", "uv"} <= set(locked)
    (extras,) = re.findall(r"^LOCKED_EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    offered = set(metadata("maft").get_all("Provides-Extra") or [])
    assert offered - set(extras.split()) == {"fiftyone"}
    for wanted in map(Requirement, requires("maft") or []):
        if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras.split())):
            continue
        found = locked[wanted.name.lower().replace("_", "-")]
        for entry in found:
            (version,) = entry.specifier
            assert version.operator == "==" and wanted.specifier.contains(version.version), (wanted, entry)


def test_pip_does_not_take_the_lock(tmp_path):
    result = run("setup_env.py", "--venv", tmp_path / "env", "--locked", "--installer", "pip")
    assert_one_error(result, "LOCKED=1", "INSTALLER=pip")
    assert not (tmp_path / "env").exists()
