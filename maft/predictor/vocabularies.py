"""A vocabulary grows and shrinks by one class or example at a time, its other classes in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from maft.errors import UserError, shown
from maft.examples import Example
from maft.vocabulary import Vocabulary


def with_words(vocabulary: Vocabulary | None, names: Sequence[str]) -> Vocabulary:
    """Further classes by their words, the last of all; None: they are the first.

    Raises:
        UserError: one of them is there already, or is no name.
    """
    added = Vocabulary(tuple(names))
    if vocabulary is None:
        return added
    if there := [name for name in added.names if vocabulary.find(name) is not None]:
        raise UserError(f"The vocabulary has {shown(there[0])} already: leave it out, or begin another vocabulary.")
    count = len(names)
    return Vocabulary(
        (*vocabulary.names, *names),
        vocabulary.seen and (*vocabulary.seen, *[False] * count),
        vocabulary.examples and (*vocabulary.examples, *[()] * count),
        vocabulary.words and (*vocabulary.words, *[True] * count),
        vocabulary.added and (*vocabulary.added, *[False] * count),
    )


def with_example(vocabulary: Vocabulary | None, name: str, example: Example, *, words: bool = True) -> Vocabulary:
    """One more example of a class, which may be new; see `Vocabulary.add`.

    Args:
        vocabulary: None: this class is the first.
        words: False: the name takes no part; asked of a class that is there, it must be so already.

    Raises:
        UserError: the class has 5 examples or this one already, or has words that are to be left out.
    """
    if vocabulary is None:
        return Vocabulary((name,), None, ((example,),), (words,), (True,))
    if (at := vocabulary.find(name)) is None:
        return vocabulary.add(name, [example], words=words)
    if not vocabulary.of(at) or (vocabulary.has_words(at) and not words):
        return vocabulary.add(vocabulary.names[at], [example], words=words)
    return replace(
        vocabulary,
        examples=tuple((*one, example) if index == at else one for index, one in enumerate(vocabulary.examples)),
    )


def without(vocabulary: Vocabulary, name: str) -> Vocabulary:
    """Takes away the examples of a class, and with them a class that they brought; or a class that has none.

    Raises:
        UserError: there is no such class, or no other one.
    """
    at = vocabulary.index(name)
    if vocabulary.of(at) and not (vocabulary.added and vocabulary.added[at]):
        return vocabulary.remove(name)
    if len(vocabulary) == 1:
        raise UserError(f"{vocabulary.names[at]!r} is the only class of the vocabulary: remove its file instead.")
    return vocabulary.of_classes(lambda index: index != at)
