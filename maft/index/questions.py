"""What is asked of an index: words, words against them, and what else there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from maft.errors import UserError, closest, shown
from maft.structures import Vocabulary, as_clip_reads


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
    def among(cls, words: Vocabulary, not_words: Vocabulary | None, bound: Vocabulary) -> Question:
        """Words of an index that knows no others.

        Raises:
            UserError: one is none of them.
        """
        places = {as_clip_reads(name): place for place, name in enumerate(bound.names)}

        def found(names: Sequence[str]) -> tuple[int, ...]:
            for name in names:
                if as_clip_reads(name) not in places:
                    raise UserError(
                        f"The masks of the index depend on the words that it was made with, and {shown(name)} is none "
                        f"of them.{closest(name, bound.names)} Index the images again with yours."
                    )
            return tuple(places[as_clip_reads(name)] for name in names)

        question = cls(bound, found(words.names), found(not_words.names if not_words else ()))
        question._check()
        return question

    @classmethod
    def of(cls, words: Vocabulary, not_words: Vocabulary | None, beside: Vocabulary | None) -> Question:
        """Words of any kind.

        Raises:
            UserError: a word is on both sides, or a single one has nothing to compete with.
        """
        parts = [words, *([not_words] if not_words else [])]
        asked, against = range(len(words)), range(len(words), sum(map(len, parts)))
        # Before the vocabulary says that a name occurs twice, which would not say why.
        if not_words and (both := [name for name in not_words.names if _reads(name) & _all_reads(words)]):
            raise UserError(f"{shown(both[0])} is asked for and ruled out at once: name it on one side.")
        if beside:
            named = _all_reads(*parts)
            others = [place for place, name in enumerate(beside.names) if not _reads(name) & named]
            parts += [_chosen(beside, others)] if others else []
        vocabulary = parts[0] if len(parts) == 1 else _joined(parts)
        if len(vocabulary) == 1:
            raise UserError(
                f"{shown(vocabulary.names[0])} alone has nothing to compete with, and every mask would show it: add "
                "words that it is taken for with --not, or ask for several."
            )
        return cls(vocabulary, tuple(asked), tuple(against))

    def _check(self) -> None:
        if both := set(self.asked) & set(self.against):
            name = self.vocabulary.names[min(both)]
            raise UserError(f"{shown(name)} is asked for and ruled out at once: name it on one side.")


def _reads(name: str) -> set[str]:
    return {as_clip_reads(part) for part in name.split(",") if part.strip()}


def _all_reads(*vocabularies: Vocabulary) -> set[str]:
    return set().union(*(_reads(name) for vocabulary in vocabularies for name in vocabulary.names))


def _columns(vocabulary: Vocabulary) -> dict[str, tuple[Any, ...]]:
    """What a vocabulary holds of each class, by attribute."""
    count = len(vocabulary)
    return {
        "names": vocabulary.names,
        "seen": vocabulary.seen or (False,) * count,
        "examples": vocabulary.examples or ((),) * count,
        "words": vocabulary.words or (True,) * count,
    }


def _joined(vocabularies: Sequence[Vocabulary]) -> Vocabulary:
    parts = [_columns(vocabulary) for vocabulary in vocabularies]
    return Vocabulary(**{key: tuple(chain.from_iterable(part[key] for part in parts)) for key in parts[0]})


def _chosen(vocabulary: Vocabulary, places: Sequence[int]) -> Vocabulary:
    columns = _columns(vocabulary).items()
    return Vocabulary(**{key: tuple(values[place] for place in places) for key, values in columns})
