"""The 24 classes of the miniature world and their seen / unseen splits, read from ``classes.json``.

A thing is a fixed composition of a shape, a colour and a pattern. Every shape has three nouns and every colour two, so
that an unseen noun shares each of its traits with seen ones but never all of them.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter


@dataclass(frozen=True)
class Thing:
    """A countable class: what its instances look like."""

    name: str
    shape: str
    colour: str
    pattern: str


@dataclass(frozen=True)
class MiniatureClasses:
    """The class list; class ids are contiguous, things first.

    Attributes:
        things: 18 things, class ids 0..17.
        stuff: names of the 6 stuff classes, class ids 18..23.
        unseen: for each rotation of the split, the names MAFT never sees labels of: 5 things and 1 stuff. The three
            sets are disjoint.
        held_out: 3 things and 1 stuff that are seen in every split: hyper-parameters are chosen by leaving THESE out
            of training, so that no unseen class ever takes part in a choice.
        colours: RGB in 0..255 of each colour of a thing.
        templates: five ways to say what a scene shows.
    """

    things: tuple[Thing, ...]
    stuff: tuple[str, ...]
    unseen: tuple[tuple[str, ...], ...]
    held_out: tuple[str, ...]
    colours: dict[str, tuple[int, int, int]]
    templates: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All 24 names in class id order."""
        return tuple(thing.name for thing in self.things) + self.stuff

    def ids(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """Class ids of some names."""
        return tuple(self.names.index(name) for name in names)


@cache
def miniature_classes() -> MiniatureClasses:
    """The class list of the package."""
    return TypeAdapter(MiniatureClasses).validate_json(Path(__file__).with_suffix(".json").read_bytes())
