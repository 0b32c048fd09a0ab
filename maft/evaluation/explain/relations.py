"""How two class names are related, by what the names themselves and the shipped label sets say.

No dictionary is asked. These facts are used, in this order:

1. Names that share one of their comma-separated words are synonyms: no text can tell them apart.
2. A name that ends in all of another one is a kind of it: a "coffee table" is a table. COCO-Stuff writes the noun
   first: a "wall-brick" is a brick wall, and a "wall-other" is a wall.
3. A word that a label set lists behind the first name of a class is a synonym of it: ADE20K and LVIS list WordNet's,
   FC-CLIP's lists for prompts add some.
4. FC-CLIP's lists of more than three words hold kinds and parts as well ("animal, dog, cat, ..."): their first name is
   the parent of the others.
5. Names that end in the same word, or have the same parent by the fourth rule, are siblings.

Words are no meanings: a "hot dog" counts as a kind of dog.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from maft.data.label_sets import label_set, label_set_names
from maft.structures import as_clip_reads

RELATIONS = {
    "synonym": "the same thing by another name",
    "parent": "a more general name",
    "child": "a kind of it",
    "sibling": "another kind of the same",
    "other": "unrelated by name",
}
# Their names with a hyphen have the noun first.
_NOUN_FIRST = ("coco_stuff_171", "coco_panoptic_133")
# Of which all lists are synonyms, FC-CLIP's too.
_OF_WORDNET = ("lvis_1203",)
# Catch-all classes name what they are not.
_CATCH_ALL = ("background",)
_MOST_SYNONYMS = 3
_ANY_OF_IT = ("other", "stuff")


@dataclass(frozen=True)
class _Facts:
    """What the label sets list.

    Attributes:
        synonyms: pairs of a class's first name and another word for it, both ways round.
        parents: word -> first names of the longer lists that it stands in.
    """

    synonyms: frozenset[tuple[str, str]]
    parents: dict[str, frozenset[str]]


def relation(true: str, other: str) -> str:
    """What another name is to the true one: a key of `RELATIONS`.

    Args:
        true: class string of what is there; commas separate synonyms.
        other: class string that was given instead.
    """
    of_true, of_other = _words(true), _words(other)
    if set(of_true) & set(of_other):
        return "synonym"
    if _is_kind_of(of_true, of_other[0]):
        return "parent"
    if _is_kind_of(of_other, of_true[0]):
        return "child"
    facts = _facts()
    if any((one, two) in facts.synonyms for one in of_true for two in of_other):
        return "synonym"
    above_true, above_other = _above(of_true[0]), _above(of_other[0])
    # Two label sets may disagree which of two names is the general one.
    if (of_other[0] in above_true) != (of_true[0] in above_other):
        return "parent" if of_other[0] in above_true else "child"
    if above_true & above_other or of_true[0].split()[-1] == of_other[0].split()[-1]:
        return "sibling"
    return "other"


def _above(word: str) -> frozenset[str]:
    return _facts().parents.get(word, frozenset())


def _is_kind_of(words: tuple[str, ...], general: str) -> bool:
    return any(word.endswith(f" {general}") for word in words)


@cache
def _words(name: str) -> tuple[str, ...]:
    """The synonyms of a class string in one spelling, the noun last and in the singular."""
    return tuple(dict.fromkeys(_spelt(part) for part in name.split(",") if part.strip(" ,"))) or (name,)


def _spelt(word: str) -> str:
    read = as_clip_reads(word)
    if read in _noun_first():
        noun, kind = read.split("-", 1)
        read = noun if kind in _ANY_OF_IT else f"{kind} {noun}"
    *before, last = read.replace("-", " ").split() or [read]
    return " ".join([*before, _singular(last)])


def _singular(word: str) -> str:
    """One form for singular and plural, which need not be a word."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if re.search(r"(ss|sh|ch|x)es$", word):
        return word[:-2]
    return word[:-1] if re.search(r"[^su]s$", word) else word


@cache
def _noun_first() -> frozenset[str]:
    names = (as_clip_reads(name) for key in _NOUN_FIRST for name in label_set(key).names())
    return frozenset(name for name in names if re.fullmatch(r"[^\s-]+-[^\s-]+", name))


@cache
def _facts() -> _Facts:
    synonyms: set[tuple[str, str]] = set()
    parents: dict[str, set[str]] = {}
    for words, of_wordnet in _lists():
        if of_wordnet or len(words) <= _MOST_SYNONYMS:
            # Of two further words, each may mean the class in a sense of its own: a "toilet, ..., pot, ..., stool".
            synonyms.update(pair for word in words[1:] for pair in ((words[0], word), (word, words[0])))
        elif words[0] not in _CATCH_ALL:
            for word in words[1:]:
                parents.setdefault(word, set()).add(words[0])
    return _Facts(frozenset(synonyms), {word: frozenset(above) for word, above in parents.items()})


def _lists() -> Iterator[tuple[tuple[str, ...], bool]]:
    """The words of every class that has several, and whether they are WordNet's."""
    for key in label_set_names():
        table = label_set(key)
        for variant in table.class_names:
            for name in table.names(variant):
                if len(words := _words(name)) > 1:
                    yield words, variant != "fcclip" or key in _OF_WORDNET
