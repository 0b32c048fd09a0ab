"""Detectron2 is installed by pip or by uv, and only the wheel that was tested."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from maft import installing
from maft.errors import UserError


@pytest.fixture
def another_wheel(tmp_path, monkeypatch):
    """An index that has another wheel under the name and version of the tested one."""
    name = "sal_detectron2-0.7.2"
    with zipfile.ZipFile(tmp_path / f"{name}-cp310-none-any.whl", "w") as wheel:
        wheel.writestr("detectron2/__init__.py", "")
        wheel.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: sal-detectron2\nVersion: 0.7.2\n")
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: cp310-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    for tool in ("PIP", "UV"):
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "installed"))
    return tmp_path / "installed"


@pytest.fixture(params=["pip", "uv"])
def tool(request, monkeypatch):
    if request.param == "uv":
        if not shutil.which("uv"):
            pytest.skip("uv is not here")
        without_pip(monkeypatch)
    return request.param


def without_pip(monkeypatch):
    find = installing.importlib.util.find_spec
    monkeypatch.setattr(installing.importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))


def test_another_wheel_under_the_name_of_detectron2_is_refused(another_wheel, tool, capfd):
    with pytest.raises(UserError, match="installing Detectron2 failed"):
        installing.install_from_index()
    printed = capfd.readouterr()
    assert "hash" in printed.err.lower()
    assert tool in printed.out
    assert not (another_wheel / "detectron2").exists()


def test_without_pip_and_uv_the_one_command_is_said(monkeypatch):
    without_pip(monkeypatch)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=f'run "{sys.executable} -m ensurepip" first'):
        installing.installer()


def test_every_command_says_how_to_get_detectron2():
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "detectron2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv = ["maft", "train", "quickstart/maft"]
from maft.cli import main
main()
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 1
    assert answer.stderr == 'error: Detectron2 is not installed: run "maft doctor --fix"\n'


def test_what_pip_will_say_is_said_before(monkeypatch, capsys):
    monkeypatch.setattr(installing, "_run", lambda command: None)
    monkeypatch.setattr(installing, "_check", lambda: None)
    installing.install_from_index()
    assert "pip may report that sal-detectron2 requires black, hydra-core and numpy<2" in capsys.readouterr().out
