"""The word tokenizer: rows that open_clip's text tower can pool, and unknown words spelled out."""

import json

import pytest
import torch

from maft.errors import UserError
from maft.miniature.tokenizer import WordTokenizer


@pytest.fixture
def tokenizer():
    return WordTokenizer(["a", "photo", "of", "bee", "hat"], context_length=10)


def test_rows_have_start_words_end_and_padding(tokenizer):
    rows = tokenizer(["A photo of a Bee.", "hat"])
    assert rows.dtype == torch.long and rows.shape == (2, 10)
    start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
    assert rows[0].tolist() == [start, 1, 2, 3, 1, 4, end, 0, 0, 0]
    assert rows[1].tolist() == [start, 5, end, 0, 0, 0, 0, 0, 0, 0]


def test_end_is_the_largest_token_of_every_row(tokenizer):
    rows = tokenizer(["", "zebra 9 é 漢", "a photo of a hat a photo of a hat"])
    assert rows.argmax(dim=-1).tolist() == [1, 9, 9]
    assert (rows.max(dim=-1).values == tokenizer.eot_token_id).all()
    assert tokenizer.eot_token_id == tokenizer.vocab_size - 1


def test_one_string_is_one_row_and_case_punctuation_and_accents_do_not_matter(tokenizer):
    assert tokenizer("a photo, of: a_bee").shape == (1, 10)
    assert torch.equal(tokenizer("A bée!"), tokenizer(["a  bee"]))


def test_too_long_texts_lose_words_but_not_their_end(tokenizer):
    row = tokenizer("a bee a bee a bee", context_length=5)[0]
    assert row.tolist() == [tokenizer.sot_token_id, 1, 4, 1, tokenizer.eot_token_id]


def test_unknown_words_are_spelled(tokenizer):
    row = tokenizer("a zebra ox")[0]
    letters = {letter: tokenizer.encode(f"q{letter}")[1] for letter in "zebraox"}
    assert row[1:10].tolist() == [1, *(letters[letter] for letter in "zebraox"), tokenizer.eot_token_id]
    # The article and the letter are different tokens.
    assert (row == 1).sum() == 1


def test_unknown_words_are_named_once_in_their_order(tokenizer):
    assert tokenizer.unknown_words(["a photo of a BEE", "hat, bée"]) == ()
    assert tokenizer.unknown_words(["a Zebra, ox", "zebra", "漢 hat", "!?"]) == ("zebra", "ox", "漢", "!?")


def test_file_round_trip(tmp_path, tokenizer):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer.to_json()))
    loaded = WordTokenizer.from_file(path)
    assert (loaded.words, loaded.context_length) == (tokenizer.words, tokenizer.context_length)
    assert torch.equal(loaded("a photo of a hat"), tokenizer("a photo of a hat"))


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        '{"words": ["a"]}',
        '{"words": ["a", "a"], "context_length": 9}',
        '{"words": ["A"], "context_length": 9}',
        '{"words": ["a"], "context_length": 2}',
    ],
)
def test_broken_files_are_explained(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        WordTokenizer.from_file(path)


def test_missing_file_is_explained(tmp_path):
    with pytest.raises(UserError, match="Cannot read"):
        WordTokenizer.from_file(tmp_path / "absent.json")
