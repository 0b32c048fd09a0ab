"""What a user calls things, as a vocabulary."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import and_
from typing import Any, Literal

from maft.data.label_sets import overlap as shared_synonyms
from maft.errors import UserError, closest, shown
from maft.structures import Vocabulary, as_clip_reads

log = logging.getLogger(__name__)

ClassNames = str | Sequence[str] | Mapping[str, str | Sequence[str]] | Vocabulary


def vocabulary_of(class_names: ClassNames, training: Vocabulary | None) -> Vocabulary:
    """Words as a vocabulary, each seen or unseen in training.

    Args:
        class_names: a list of names, in each of which commas separate synonyms; one text, which is one name; or names
            with their synonyms; or a vocabulary, which stays as it is but for flags that it has not.

    Raises:
        UserError: there are none, they are no texts, or two of them are alike for CLIP.
    """
    if isinstance(class_names, Vocabulary):
        if class_names.seen is not None:
            return class_names
        known = shared_synonyms(class_names.names, training.names if training else ())
        return replace(class_names, seen=tuple(map(and_, known, class_names.words or known)))
    if isinstance(class_names, str):
        if "," in class_names:
            parts = [part.strip() for part in class_names.split(",")]
            log.warning(
                "The text %s is one class, whose synonyms the commas separate: for several classes give a list, %s.",
                shown(class_names), shown(parts),
            )  # fmt: skip
        class_names = [class_names]
    elif isinstance(class_names, Mapping):
        class_names = [_with_synonyms(name, others) for name, others in class_names.items()]
    listed = items_of(class_names)
    if listed is None:
        raise UserError(f"Class names are a list of texts, not {shown(class_names)}: write ['cat', 'dog'].")
    # Names that are none are refused before they are compared.
    names = Vocabulary(tuple(listed)).names
    return Vocabulary(names, shared_synonyms(names, training.names if training else ()))


def _with_synonyms(name: object, others: object) -> str:
    listed = [others] if isinstance(others, str) else items_of(others)
    if not isinstance(name, str) or listed is None or not all(isinstance(other, str) for other in listed):
        raise UserError(
            f"The synonyms of {shown(name)} are a list of texts, not {shown(others)}: write {{'cat': ['kitten']}}."
        )
    return ", ".join(dict.fromkeys([name, *listed]))


def thing_flags(words: Vocabulary, things: Sequence[str] | Literal["all"]) -> list[bool]:
    """Whether each name of a vocabulary is among those of things, as CLIP reads them.

    Args:
        things: names of the vocabulary, in full or up to their first comma; "all" stands for all.

    Raises:
        UserError: things are no names, or one is not in the vocabulary.
    """
    if isinstance(things, str) and things == "all":
        return [True] * len(words)
    listed = items_of(things)
    if listed is None or not all(isinstance(thing, str) for thing in listed):
        example = [things] if isinstance(things, str) else ["cat", "dog"]
        raise UserError(f"Things are a list of names or 'all', not {shown(things)}: write {example}.")
    short = [name.partition(",")[0] for name in words.names]
    names = [{as_clip_reads(name), as_clip_reads(first)} for name, first in zip(words.names, short, strict=True)]
    known = set().union(*names)
    asked = {as_clip_reads(thing): thing for thing in listed}
    if strangers := [thing for read, thing in asked.items() if read not in known]:
        raise UserError(f"The thing {strangers[0]!r} is none of the class names.{closest(strangers[0], short)}")
    return [not name.isdisjoint(asked) for name in names]


def items_of(value: object) -> list[Any] | None:
    """The items of a list and its like; None for one text or no list at all."""
    return list(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else None
