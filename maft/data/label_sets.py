"""Label sets: which classes a dataset has, in which order, and the strings that each method feeds CLIP for them.

The order belongs to the dataset and the strings to the method, so one JSON file of ``vocabularies/`` holds one order
and several lists of strings ("variants") in that order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from maft.errors import UserError, first_line
from maft.miniature import miniature_classes
from maft.structures import Vocabulary, as_clip_reads

VARIANTS = ("plain", "maft", "ovseg", "fcclip")
_FOLDER = Path(__file__).with_name("vocabularies")


@dataclass(frozen=True)
class LabelSet:
    """The classes of a dataset.

    Attributes:
        name: name of the set, such as ``coco_stuff_171``.
        ignore_label: value of pixels without a class in prepared label maps.
        category_ids: (C,) id of each class in the dataset's own annotation files, in label order.
        things: indices of the countable classes.
        unseen: indices of the classes that zero-shot training leaves out; empty where no split is published.
        class_names: variant -> (C,) class strings; commas separate synonyms. ``plain`` is always there.
    """

    name: str
    ignore_label: int
    category_ids: tuple[int, ...]
    things: tuple[int, ...]
    unseen: tuple[int, ...]
    class_names: dict[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.category_ids)

    def names(self, variant: str = "plain") -> tuple[str, ...]:
        """(C,) class strings of a variant.

        Raises:
            UserError: this label set has no such variant.
        """
        try:
            return self.class_names[variant]
        except KeyError:
            raise UserError(
                f"Label set {self.name} has no class strings {variant!r}: choose one of {', '.join(self.class_names)}."
            ) from None

    @property
    def seen(self) -> tuple[bool, ...] | None:
        """(C,) whether each class is trained on under the published split; None without a split."""
        if not self.unseen:
            return None
        return tuple(index in self.seen_indices for index in range(len(self)))

    @property
    def seen_indices(self) -> tuple[int, ...]:
        """Indices of the seen classes, in label order: the labels of zero-shot training are numbered by it."""
        unseen = set(self.unseen)
        return tuple(index for index in range(len(self)) if index not in unseen)


@cache
def label_set(name: str) -> LabelSet:
    """One label set of the package: a file of ``vocabularies/``, or a split of the miniature world.

    Raises:
        UserError: there is no label set of that name.
    """
    if name.startswith("miniature_"):
        return _miniature(name)
    path = _FOLDER / f"{name}.json"
    if not path.is_file():
        raise UserError(f"There is no label set {name!r}: the known ones are {', '.join(label_set_names())}.")
    table = json.loads(path.read_text(encoding="utf-8"))
    strings = table["class_names"]
    # A variant that equals another one names it instead of repeating hundreds of strings.
    resolved = {key: strings[value] if isinstance(value, str) else value for key, value in strings.items()}
    return TypeAdapter(LabelSet).validate_python({**table, "class_names": resolved})


def label_set_names() -> list[str]:
    """The names of the files of ``vocabularies/``."""
    return sorted(file.stem for file in _FOLDER.glob("*.json"))


def plain_label_set(
    name: str, names: tuple[str, ...], ignore_label: int, things: Iterable[int] = (), unseen: Iterable[int] = ()
) -> LabelSet:
    """A label set with one list of class strings that serves every method."""
    class_names = dict.fromkeys(VARIANTS, names)
    return LabelSet(name, ignore_label, tuple(range(len(names))), tuple(things), tuple(unseen), class_names)


def _miniature(name: str) -> LabelSet:
    world = miniature_classes()
    key = name.removeprefix("miniature_")
    unseen = world.held_out if key == "tuning" else world.unseen[int(key)]
    return plain_label_set(name, world.names, 255, range(len(world.things)), sorted(world.ids(unseen)))


def read_class_list(path: str | Path) -> tuple[str, ...]:
    """Class strings of a text file: one class a line, commas between synonyms, empty lines at the end ignored.

    Raises:
        UserError: the file is missing, is not UTF-8 text, is empty, or has a blank or repeated line.
    """
    file = Path(path)
    try:
        # Unlike splitlines, this does not split at the further line separators of Unicode, such as U+2028.
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise UserError(f"Class list {file} does not exist: write one class name a line into it.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"Class list {file} cannot be read as UTF-8 text: {first_line(error)}.") from None
    while lines and not lines[-1].strip():
        lines.pop()
    try:
        return Vocabulary(tuple(lines)).names
    except UserError as error:
        raise UserError(f"Class list {file}: {error}") from None


def overlap(names: Sequence[str], training_names: Sequence[str]) -> tuple[bool, ...]:
    """Whether each class shares at least one synonym, as CLIP reads it, with the training classes (FC-CLIP's rule).

    Args:
        names: (C,) class strings; commas separate synonyms.
        training_names: class strings of the training vocabulary.
    """

    def synonyms(name: str) -> set[str]:
        return {as_clip_reads(part) for part in name.split(",") if part.strip()}

    trained = set().union(*map(synonyms, training_names))
    return tuple(bool(trained & synonyms(name)) for name in names)


def check_order(names: Sequence[str], expected: Sequence[str], source: str, owner: str) -> None:
    """Refuses names in another order than the labels they stand for; spellings may differ.

    Args:
        names: (C,) what ``source`` calls each label.
        expected: (C,) class names of the labels of ``owner``.

    Raises:
        UserError: a label is called by the name of another one.
    """
    places = {as_clip_reads(name): label for label, name in enumerate(expected)}
    for label, name in enumerate(names):
        if (other := places.get(as_clip_reads(name), label)) != label:
            raise UserError(
                f"{source} calls label {label} of {owner} {name!r}, but that is label {other} and label {label} is "
                f"{expected[label]!r}: put its classes in the order of {owner}."
            )
