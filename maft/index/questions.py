"""What is asked of an index: words, words against them, and what else there is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from maft.errors import UserError, closest, shown
from maft.examples import Example
from maft.structures import Vocabulary, as_clip_reads


class _Class(NamedTuple):
    """One class of a vocabulary."""

    name: str
    seen: bool
    examples: tuple[Example, ...]
    has_words: bool

    @property
    def reads(self) -> set[str]:
        """Its synonyms, as CLIP reads them."""
        return {as_clip_reads(part) for part in self.name.split(",") if part.strip()}


@dataclass(frozen=True)
class Question:
    """Words of which masks are asked for, among those that they compete with.

    Attributes:
        vocabulary: all C words.
        asked: which of them are asked for.
        against: which of them are not, and leave masks out.
    """

    vocabulary: Vocabulary
    asked: tuple[int, ...]
    against: tuple[int, ...]

    @classmethod
    def of(cls, words: Vocabulary, not_words: Vocabulary | None, beside: Vocabulary | None) -> Question:
        """Words of any kind.

        Args:
            beside: without the classes that share a synonym with a word. Those that have examples are what the word
                means.

        Raises:
            UserError: a word is on both sides, or a single one has nothing to compete with.
        """
        others = _classes(beside) if beside else []
        by_examples = {read: one for one in others if one.examples for read in one.reads}
        asked, against = (
            [one if one.examples else by_examples.get(as_clip_reads(one.name), one) for one in _classes(given)]
            for given in (words, not_words)
        )
        _check_sides(asked, against)
        named = set().union(*(one.reads for one in (*asked, *against)))
        classes = [*asked, *against, *(one for one in others if not one.reads & named)]
        if len(classes) == 1:
            raise UserError(
                f"{shown(classes[0].name)} alone has nothing to compete with, and every mask would show it: add words "
                "that it is taken for with --not, or ask for several."
            )
        end = len(asked) + len(against)
        return cls(_vocabulary(classes), tuple(range(len(asked))), tuple(range(len(asked), end)))

    @classmethod
    def among(cls, words: Vocabulary, not_words: Vocabulary | None, bound: Vocabulary) -> Question:
        """Words of an index that knows no others.

        Raises:
            UserError: one is none of them, or on both sides.
        """
        places = {as_clip_reads(name): place for place, name in enumerate(bound.names)}
        _check_sides(_classes(words), _classes(not_words))
        for name in (*words.names, *(not_words.names if not_words else ())):
            if as_clip_reads(name) not in places:
                raise UserError(
                    f"The masks of the index depend on the words that it was made with, and {shown(name)} is none of "
                    f"them.{closest(name, bound.names)} Index the images again with yours."
                )
        asked, against = (
            tuple(places[as_clip_reads(one.name)] for one in _classes(given)) for given in (words, not_words)
        )
        return cls(bound, asked, against)

    def named(self, *, beside: bool) -> Vocabulary:
        """The words that were named, with those beside them or without."""
        classes = _classes(self.vocabulary)
        return self.vocabulary if beside else _vocabulary([classes[place] for place in (*self.asked, *self.against)])


def _classes(vocabulary: Vocabulary | None) -> list[_Class]:
    if vocabulary is None:
        return []
    seen = vocabulary.seen or (False,) * len(vocabulary)
    return [
        _Class(name, seen[place], vocabulary.of(place), vocabulary.has_words(place))
        for place, name in enumerate(vocabulary.names)
    ]


def _vocabulary(classes: Iterable[_Class]) -> Vocabulary:
    return Vocabulary(*zip(*classes))


def _check_sides(asked: Sequence[_Class], against: Sequence[_Class]) -> None:
    wanted = set().union(*(one.reads for one in asked))
    if both := [one.name for one in against if one.reads & wanted]:
        raise UserError(f"{shown(both[0])} is asked for and ruled out at once: name it on one side.")
