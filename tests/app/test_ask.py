"""The tab that asks indices for masks."""

import shutil
from pathlib import Path

import pytest

from maft.errors import UserError
from maft.index import Index

pytest.importorskip("gradio", reason="gradio is not installed")


def test_masks_are_found_with_their_pictures_words_scores_and_files(index):
    from maft.app.tabs.ask import answered

    page, remarks = answered(index, "apple\ncloud", "fan", 3)
    assert page.count("data:image/png;base64,") == 3
    assert Path(index.files[0]).suffix in page and str(Path(index.files[0]).parent) not in page
    assert remarks == ()


def test_a_file_that_is_gone_or_changed_is_a_silhouette_and_is_remarked(index):
    from maft.app.tabs.ask import answered

    for file in index.files:
        Path(file).write_bytes(b"another one now")
    page, (remark,) = answered(index, "apple", "", 2)
    assert page.count("data:image/png;base64,") == 2
    assert "silhouettes" in remark


def test_no_word_and_a_word_on_both_sides_get_a_sentence(index):
    from maft.app.tabs.ask import answered

    with pytest.raises(UserError, match="no word to find"):
        answered(index, " \n", "", 3)
    with pytest.raises(UserError, match="apple"):
        answered(index, "apple", "apple", 3)


def test_words_are_text_on_the_page(index):
    from maft.app.tabs.ask import answered

    assert "<script>" not in answered(index, "<script>", "", 1)[0]


@pytest.fixture()
def index(index_folder, tmp_path):
    found = Index(index_folder)
    # Copies, so that a test may change the files.
    found.files = tuple(shutil.copy(file, tmp_path) for file in found.files)
    return found
