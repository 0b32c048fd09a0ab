"""The command ``maft`` itself: what it lists, and that it answers at once."""

import subprocess
import sys

import pytest

from maft import __version__, cli
from maft.errors import UserError

HEAVY = {"torch", "detectron2", "gradio", "numpy", "PIL", "pydantic", "yaml", "transformers", "open_clip"}


def imported_by(code):
    report = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    answer = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(answer.stdout.splitlines()[-1].split())


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        cli.run(["--help"])
    assert end.value.code == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in cli.COMMANDS)


def test_nothing_heavy_is_imported_to_list_the_commands():
    assert not imported_by("from maft import cli; cli.run([])") & HEAVY


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_nothing_heavy_is_imported_for_the_help_of_a_command(name):
    code = f"import importlib; print(importlib.import_module('maft.cli.{name}').parser().format_help())"
    assert not imported_by(code) & HEAVY


def test_an_unknown_command_is_answered_with_the_closest():
    with pytest.raises(UserError, match="no command 'trian'.*Did you mean train"):
        cli.run(["trian"])


def test_the_module_is_the_same_command():
    answer = subprocess.run([sys.executable, "-m", "maft", "--version"], capture_output=True, text=True)
    assert answer.stdout == f"{__version__}\n"
