"""A vocabulary grows and shrinks by one class or example at a time."""

import numpy as np
import pytest

from maft.errors import UserError
from maft.examples import Example
from maft.predictor.vocabularies import with_example, with_words, without
from maft.vocabulary import Vocabulary


def example(number):
    return Example(np.full((4, 5, 3), number, np.uint8), np.eye(4, 5, dtype=bool))


WORDS = Vocabulary(("cat, kitten", "sofa"), (True, False))


def test_words_come_last_and_begin_a_vocabulary():
    assert with_words(None, ["cat", "dog"]) == Vocabulary(("cat", "dog"))
    grown = with_words(WORDS.add("mug", [example(1)], words=False), ["floor"])
    assert grown == Vocabulary(
        ("cat, kitten", "sofa", "mug", "floor"), (True, False, False, False), ((), (), (example(1),), ()),
        (True, True, False, True), (False, False, True, False),
    )  # fmt: skip
    assert with_words(WORDS, ["floor"]) == Vocabulary(("cat, kitten", "sofa", "floor"), (True, False, False))
    with pytest.raises(UserError, match="has 'SOFA' already"):
        with_words(WORDS, ["SOFA"])


def test_examples_join_their_class_where_it_stands():
    grown = WORDS
    for name, number in (("mug, cup", 1), ("Kitten,", 2), ("cat", 3), ("mug", 4), ("cat, kitten", 5)):
        grown = with_example(grown, name.strip(","), example(number))
    assert grown.names == ("cat, kitten", "sofa", "mug, cup", "Kitten")
    assert grown.examples == ((example(3), example(5)), (), (example(1), example(4)), (example(2),))
    alone = with_example(Vocabulary(("background",)), "mug", example(1), words=False)
    assert with_example(alone, "mug", example(2), words=False) == with_example(alone, "mug", example(2))
    assert with_example(None, "mug", example(1)) == Vocabulary(("mug",), None, ((example(1),),), (), (True,))


def test_what_is_taken_away_leaves_what_was_before():
    sharpened = with_example(WORDS, "sofa", example(1))
    both = with_example(sharpened, "mug", example(2))
    assert without(both, "mug") == sharpened and without(without(both, "sofa"), "mug") == WORDS
    assert without(without(sharpened, "sofa"), "sofa") == Vocabulary(("cat, kitten",), (True,))
    assert without(both, "cat").names == ("sofa", "mug")


def test_what_cannot_be_done_is_named():
    full = WORDS
    for number in range(5):
        full = with_example(full, "mug", example(number))
    with pytest.raises(UserError, match="'mug' has 6 examples, and 5 are the most"):
        with_example(full, "mug", example(7))
    with pytest.raises(UserError, match="'sofa' has the same example twice"):
        with_example(with_example(WORDS, "sofa", example(1)), "sofa", example(1))
    with pytest.raises(UserError, match="'sofa' is there by its words"):
        with_example(WORDS, "sofa", example(1), words=False)
    with pytest.raises(UserError, match="no class 'sofas'. Did you mean sofa?"):
        without(WORDS, "sofas")
    with pytest.raises(UserError, match="'mug' is the only class of the vocabulary: remove its file instead"):
        without(with_example(None, "mug", example(1)), "mug")
    with pytest.raises(UserError, match="examples are compared with words"):
        with_example(None, "mug", example(1), words=False)
