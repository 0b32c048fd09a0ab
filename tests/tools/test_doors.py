"""The scripts of tools/ and datasets/ answer --help without importing what they work with."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    file.relative_to(ROOT).as_posix()
    for folder in ("tools", "datasets")
    for file in (ROOT / folder).glob("*.py")
    if "Parser(" in file.read_text() or "maft.cli" in file.read_text()
)
REPORT = """
import runpy, sys
try:
    runpy.run_path(sys.argv.pop(0) and sys.argv[0], run_name="__main__")
finally:
    print("IMPORTED", *{name.split(".")[0] for name in sys.modules})
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_light(script):
    command = [sys.executable, "-c", REPORT, script, "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr
    written, _, imported = answer.stdout.rpartition("IMPORTED")
    assert written.startswith("usage: ")
    assert not {"torch", "detectron2", "gradio", "numpy"} & set(imported.split())


def test_both_kinds_of_scripts_are_looked_at():
    assert {"tools/train_net.py", "tools/benchmark.py", "datasets/prepare_voc.py"} <= set(SCRIPTS)
