"""The runner of the documentation's commands notices what is wrong."""

import pytest
from documentation.pages import blocks
from documentation.running import check_shell, statements

from maft.errors import UserError


def block(text, mark="<!-- not run: no GPU -->", language="bash"):
    (found,) = blocks("a page", f"Words.\n\n{mark}\n```{language}\n{text}\n```\n")
    return found


def test_a_mark_belongs_to_the_block_below_it():
    found = block("maft doctor")
    assert found.reason == "no GPU" and found.line == 4 and found.text == "maft doctor\n"


def test_words_are_added_to_a_block():
    assert block("maft doctor", "<!-- run with A.B '1 2' -->").more == ("A.B", "1 2")


def test_a_file_is_named_before_its_block():
    (found,) = blocks("a page", "`a/b.yaml`:\n\n```yaml\nA: 1\n```\n")
    assert found.file == "a/b.yaml" and found.text == "A: 1\n"


def test_commands_below_the_name_of_a_file_are_not_its_text():
    (found,) = blocks("a page", "`a/b.yaml`:\n\n<!-- not run: an hour -->\n```bash\nmaft doctor\n```\n")
    assert found.file is None and found.reason == "an hour"


def test_a_block_in_a_list_has_no_indentation():
    (found,) = blocks("a page", "1. First:\n\n   ```bash\n   maft doctor\n     more\n   ```\n")
    assert found.text == "maft doctor\n  more\n"


def test_a_block_without_end_is_refused():
    with pytest.raises(AssertionError, match="a page:1"):
        list(blocks("a page", "```bash\nmaft doctor\n"))


def test_what_is_right_passes():
    check_shell(
        block("maft train --config-file quickstart/maft SOLVER.MAX_ITER 3 \\\n  --num-gpus 8 | tee log\nmake test")
    )


def test_quotes_and_backslashes_join_lines():
    assert list(statements("a \\\n  b\nc 'd\ne' f\n# it's\ng")) == ["a   b", "c 'd\ne' f", "# it's", "g"]


@pytest.mark.parametrize(
    "text",
    [
        "maft trian --config-file quickstart/maft",
        "make nothing",
        "tools/nothing.py",
        "for run in 1 2; do",
    ],
)
def test_what_does_not_exist_fails(text):
    with pytest.raises(AssertionError, match="a page:4"):
        check_shell(block(text))


@pytest.mark.parametrize(
    "text",
    [
        "maft train --config-file quickstart/maft SOLVER.MAX_ITERS 3",
        "maft train --config-file quickstart/no_such_config",
        "maft train --config quickstart/maft",
        "torchrun --nproc-per-node 8 tools/train_net.py --config-file quickstart/maft --resumes",
    ],
)
def test_what_a_command_does_not_understand_fails(text):
    with pytest.raises(UserError):
        check_shell(block(text))
