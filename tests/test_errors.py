import subprocess
import sys
from pathlib import Path

import pytest

from maft.errors import ToolParser, UserError, closest, printable, run_tool


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (3, 3)])
def test_the_returned_status_is_the_exit_status(returned, status):
    with pytest.raises(SystemExit) as stop:
        run_tool(lambda: returned)
    assert stop.value.code == status


def test_a_user_error_is_one_line_on_stderr_and_status_1(capsys):
    def main():
        raise UserError("no such file: a.yaml; check --config-file")

    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert captured.err == "error: no such file: a.yaml; check --config-file\n"
    assert captured.out == ""


@pytest.mark.parametrize("given", [["--wrong"], ["--pictures"], ["--pictures", "many"], ["--pict", "3"]])
def test_a_misspelt_option_is_a_user_error(given):
    parser = ToolParser(prog="tool.py")
    parser.add_argument("--pictures", type=int)
    with pytest.raises(UserError, match=r"^[^\n]*; see tool.py --help\.$"):
        parser.parse_args(given)


def test_a_negative_number_in_any_notation_is_a_value():
    parser = ToolParser(prog="tool.py")
    parser.add_argument("opts", nargs="*")
    given = ["SOLVER.BASE_LR", "-1e-3", "-.5", "-2"]
    assert parser.parse_args(given).opts == given


def test_interruption_is_status_130():
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    assert stop.value.code == 130


def test_a_defect_keeps_its_traceback():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_tool(main)


def test_what_the_system_refuses_is_one_line_and_status_1(capsys):
    def main():
        Path("/nowhere/a.txt").read_text()

    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    assert stop.value.code == 1
    assert capsys.readouterr().err == (
        "error: /nowhere/a.txt: No such file or directory; check its path, rights and the space left\n"
    )


@pytest.mark.parametrize(("end", "status"), [("| true", 141), ("> /dev/full", 1), (">&-", 0)])
def test_a_closed_pipe_and_a_full_output_have_no_traceback(tmp_path, end, status):
    script = tmp_path / "tool.py"
    script.write_text(
        "import time; from maft.errors import run_tool\n"
        "def main():\n    time.sleep(0.2); print('x' * 10**5)\n"
        "run_tool(main)\n"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} {script} {end}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status
    sentence = "error: a file or the output: No space left on device; check its path, rights and the space left\n"
    assert done.stderr == (sentence if status == 1 else "")


def test_names_move_no_cursor_and_begin_no_line(capsys):
    assert printable("a\x1b[2J\nb\udcff é 猫") == r"a\x1b[2J\nb\udcff é 猫"
    assert printable("a\nb\x07", lines=True) == "a\nb\\x07"

    def fails():
        raise UserError("x\x1b[31m.png is damaged.")

    with pytest.raises(SystemExit):
        run_tool(fails)
    assert capsys.readouterr().err == "error: x\\x1b[31m.png is damaged.\n"


def test_a_word_of_thousands_of_characters_is_cut():
    message = str(UserError(f"Folder {'x' * 3000}y is not there: give another one."))
    assert message.startswith("Folder xxx") and message.endswith("y is not there: give another one.")
    assert len(message) < 600 and " ... " in message


def test_a_name_in_another_case_is_the_closest():
    assert closest("vit-b-16", ["ViT-S-16", "ViT-B-16"]) == " Did you mean ViT-B-16?"
