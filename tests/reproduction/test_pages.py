"""A measured table takes the place of the one before, and nothing else of a page changes."""

import pytest

from maft.errors import UserError
from maft.reproduction.pages import put_table

PAGE = """before
<!-- table: other -->
kept
<!-- end of the table -->
<!-- table: classifiers -->

old
<!-- end of the table -->
behind
"""


def test_the_table_between_its_marks_is_replaced(tmp_path):
    (page := tmp_path / "page.md").write_text(PAGE)
    for text in ("| a |", "| b |"):
        put_table(page, "classifiers", text)
        assert page.read_text() == PAGE.replace("old\n", f"{text}\n\n")


@pytest.mark.parametrize("text", ["nothing", "<!-- table: classifiers -->\n", PAGE.replace("classifiers", "tune")])
def test_a_page_without_a_place_for_the_table_stays_as_it_is(tmp_path, text):
    (page := tmp_path / "page.md").write_text(text)
    with pytest.raises(UserError, match="page.md has no place for the table: write <!-- table: classifiers --> and "):
        put_table(page, "classifiers", "| a |")
    assert page.read_text() == text
    with pytest.raises(UserError, match="none.md does not exist"):
        put_table(tmp_path / "none.md", "classifiers", "| a |")
