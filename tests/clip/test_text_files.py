"""What is kept of text embeddings on disk is bounded, whole and readable by others."""

import json
import os
import stat

import pytest
import torch

from maft.clip import text_files
from maft.clip.text_files import embedding_file, read_embeddings, write_embeddings


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(text_files, "MOST_TEXTS", 3)
    monkeypatch.setattr(text_files, "MOST_FILES", 2)


def rows(*texts):
    return {text: torch.full((4,), float(len(text))) for text in texts}


def test_a_file_keeps_the_texts_used_last(tmp_path):
    file = embedding_file(tmp_path, "a")
    write_embeddings(file, rows("a", "bb", "ccc", "dddd"))
    assert list(read_embeddings(file, 4)) == ["bb", "ccc", "dddd"]
    assert file.stat().st_size < 1000


def test_a_folder_keeps_the_files_used_last(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MOST_FILES", 3)
    for age, name in enumerate(("old", "older", "oldest")):
        write_embeddings(embedding_file(tmp_path, name), rows("a"))
        os.utime(embedding_file(tmp_path, name), (1000 - age, 1000 - age))
    monkeypatch.setattr(text_files, "MOST_FILES", 2)
    (tmp_path / "other.safetensors").touch()
    read_embeddings(embedding_file(tmp_path, "older"), 4)
    write_embeddings(embedding_file(tmp_path, "new"), rows("a"))
    assert {path.name for path in tmp_path.iterdir()} == {
        "text_embeddings_older.safetensors",
        "text_embeddings_new.safetensors",
        "other.safetensors",
    }


def test_the_umask_decides_who_may_read(tmp_path):
    write_embeddings(embedding_file(tmp_path, "a"), rows("a"))
    os.umask(before := os.umask(0))
    assert stat.S_IMODE(embedding_file(tmp_path, "a").stat().st_mode) == 0o666 & ~before


@pytest.mark.parametrize("broken", [torch.full((1, 4), float("nan")), torch.ones(1, 5), torch.ones(1, 4).half()])
def test_rows_that_are_none_of_this_model_s_are_not_used(tmp_path, caplog, broken):
    text_files.write_safetensors(embedding_file(tmp_path, "a"), {"rows": broken}, {"texts": ["a"]})
    assert read_embeddings(embedding_file(tmp_path, "a"), 4) == {}
    assert "computed again" in caplog.text


@pytest.mark.parametrize("texts", [[None], {"a": 1}, "a"])
def test_rows_of_no_texts_are_not_used(tmp_path, texts):
    text_files.write_safetensors(
        embedding_file(tmp_path, "a"), {"rows": torch.ones(1, 4)}, {"texts": json.dumps(texts)}
    )
    assert read_embeddings(embedding_file(tmp_path, "a"), 4) == {}
