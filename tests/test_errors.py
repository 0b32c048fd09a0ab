import pytest

from maft.errors import ToolParser, UserError, run_tool


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
