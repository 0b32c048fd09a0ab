"""The words of the app: what its text fields mean, and vocabularies to begin with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from maft.data.label_sets import label_set, label_set_names
from maft.errors import UserError
from maft.predictor import Predictor
from maft.structures import as_clip_reads

OWN = "your own words"


@dataclass(frozen=True)
class Preset:
    """A vocabulary to begin with: class names, and which of them are countable."""

    names: tuple[str, ...]
    things: tuple[str, ...]


def split_names(text: str) -> list[str]:
    """Class names of a text field, one a line or separated by semicolons (commas separate synonyms of one class)."""
    return [name.strip() for line in text.splitlines() for name in line.split(";") if name.strip()]


def without_leftovers(things: str, given: Collection[str], words: str) -> str:
    """The text of the countable things less those that a vocabulary wrote there and the words no longer have."""
    read = {as_clip_reads(part) for name in split_names(words) for part in (name, name.partition(",")[0])}
    gone = {thing for thing in given if as_clip_reads(thing) not in read}
    return "\n".join(thing for thing in split_names(things) if thing not in gone)


def looks_like_a_list(names: list[str]) -> bool:
    """Whether the only class has so many synonyms that its commas were probably meant to separate classes."""
    return len(names) == 1 and names[0].count(",") >= 1


@cache
def presets() -> dict[str, Preset]:
    """Every label set of the package, and of those with a split the classes that zero-shot training leaves out."""
    found: dict[str, Preset] = {}
    for name in ("miniature_0", *label_set_names()):
        labels, title = label_set(name), name.removesuffix("_0")
        names, things, unseen = labels.names(), set(labels.things), set(labels.unseen)
        found[f"{title}: all {len(labels)} classes"] = _preset(names, range(len(labels)), things)
        if unseen:
            found[f"{title}: the {len(unseen)} unseen classes"] = _preset(names, sorted(unseen), things)
    return found


def _preset(names: tuple[str, ...], indices: range | list[int], things: set[int]) -> Preset:
    chosen = tuple(names[index] for index in indices)
    return Preset(chosen, tuple(names[index] for index in indices if index in things))


def first_preset(predictor: Predictor) -> tuple[str, Preset]:
    """What the app begins with: the label set that a model was trained on seen classes of, unseen ones included.

    The model's own training classes where there is none, and no word where it has none.
    """
    try:
        trained = predictor.vocabulary().names
    except UserError:
        return OWN, Preset((), ())
    reads = {as_clip_reads(name) for name in trained}
    for title, preset in presets().items():
        if reads <= {as_clip_reads(name) for name in preset.names}:
            return title, preset
    return OWN, Preset(trained, ())
