import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def lint_imports(folder):
    """Check the contracts of pyproject.toml, [tool.importlinter], on the package in ``folder``."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    paths = os.pathsep.join(str(folder / name) for name in ("", "tests", "tools"))
    return subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)


def test_imports_go_one_way():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("errors.py", "import maft.files", "maft.errors is not allowed to import maft.files"),
        ("files.py", "import benchmarks", "maft.files -> benchmarks"),
        ("files.py", "import open_clip", "maft is not allowed to import open_clip"),
        ("a_room_without_a_layer.py", "", "maft.a_room_without_a_layer"),
    ],
)
def test_the_contract_notices(tmp_path, file, line, complaint):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.json", "*.txt")
    for name in ("maft", "tests/golden", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    with (tmp_path / "maft" / file).open("a") as stream:
        stream.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert complaint in result.stdout
