"""What users call things: lists, one text, synonyms, and what is none of these."""

import logging

import pytest

from maft.errors import UserError
from maft.predictor.words import thing_flags, vocabulary_of
from maft.structures import Vocabulary

WORDS = Vocabulary(("a red disc", "grass, lawn", "sky"))


def test_one_text_is_one_class_and_says_so_where_it_looks_like_a_list(caplog):
    assert vocabulary_of("cat", None).names == ("cat",)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert vocabulary_of("cat, dog,bus", None).names == ("cat, dog,bus",)
    (record,) = caplog.records
    assert "'cat, dog,bus' is one class" in record.getMessage()
    assert "give a list, ['cat', 'dog', 'bus']" in record.getMessage()


def test_names_with_their_synonyms():
    words = vocabulary_of({"cat": ["kitten", "cat", "tabby"], "dog": "puppy", "bus": []}, None)
    assert words.names == ("cat, kitten, tabby", "dog, puppy", "bus")
    assert words.synonyms(0) == ("cat", "kitten", "tabby")
    assert thing_flags(words, ["Cat", "dog, puppy"]) == [True, True, False]


def test_a_class_is_seen_where_it_shares_a_synonym_with_training():
    words = vocabulary_of(["LAWN", "sea", "Sky, heaven"], WORDS)
    assert words.seen == (True, False, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "empty"),
        ({}, "empty"),
        ("", "number 1 of the vocabulary is blank"),
        (["dog", ""], "number 2"),
        (["dog", "dog"], "'dog' occurs twice"),
        (["dog", None], "number 2 .* is None, which is no text"),
        (b"dog", r"a list of texts, not b'dog'"),
        (5, "a list of texts, not 5"),
        ({"dog": 5}, r"The synonyms of 'dog' are a list of texts, not 5: write {'cat': \['kitten'\]}"),
        ({1: ["dog"]}, "The synonyms of 1 are"),
        ({"dog": [None]}, r"not \[None\]"),
    ],
)
def test_words_that_are_no_vocabulary(words, sentence):
    with pytest.raises(UserError, match=sentence):
        vocabulary_of(words, None)


def test_things_are_names_in_full_or_up_to_the_first_comma():
    assert thing_flags(WORDS, "all") == [True] * 3
    assert thing_flags(WORDS, []) == [False] * 3
    assert thing_flags(WORDS, ["grass"]) == thing_flags(WORDS, ["Grass,  lawn"]) == [False, True, False]
    with pytest.raises(UserError, match="'lawn' is none of the class names"):
        thing_flags(WORDS, ["lawn"])
    with pytest.raises(UserError, match=r"The thing 'grss' is none of the class names\. Did you mean grass\?"):
        thing_flags(WORDS, ["grss"])


@pytest.mark.parametrize("things", [[None], [1], 3, True, b"all", [["grass"]], "grass"])
def test_things_of_other_types_are_refused(things):
    with pytest.raises(UserError, match="Things are a list of names or 'all', not "):
        thing_flags(WORDS, things)
