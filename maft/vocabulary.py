"""What can be named: class names, and examples that define a class or sharpen it beside its words."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress

from torch import Tensor

from maft.errors import UserError, closest, shown
from maft.examples import MOST_EXAMPLES, Example, ExampleEmbeddings
from maft.vocabulary_file import read_vocabulary, write_vocabulary


def as_clip_reads(name: str) -> str:
    """A class name for comparison: case, blanks, Unicode's forms of one letter and invisible characters are folded."""
    if not name.isprintable():
        name = "".join(one for one in name if one.isspace() or unicodedata.category(one) not in ("Cf", "Cc"))
    return " ".join(unicodedata.normalize("NFC", name).lower().split())


# Every name costs a text embedding and a score at every pixel; ImageNet's 21,841 and their like fit.
_MOST_NAMES = 50_000
_LONGEST_NAME = 10_000


def _check_name(name: object, place: str) -> None:
    if not isinstance(name, str):
        raise UserError(f"{place} is {shown(name)}, which is no text: write it in quotes.")
    if len(name) > _LONGEST_NAME:
        raise UserError(f"{place} has {len(name)} characters, more than {_LONGEST_NAME}: shorten it.")
    if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
        raise UserError(f"{place} is {shown(name)}, which is no text of Unicode: write it again.")


@dataclass(frozen=True)
class Vocabulary:
    """What can be named: one entry per class, in label order.

    Two are equal, with the same hash, where names, flags and the pixels of examples are.

    Attributes:
        names: class strings as given, C of them; commas may separate synonyms (the text encoder's rule decides).
        seen: whether each class belongs to the training vocabulary; None when that is unknown (treated as all unseen
            by ensembles that distinguish them).
        examples: of each class, 0 to 5 masks of images that show it; empty where no class has any. `add` gives some.
        words: whether the name of each class takes part; where it does not, examples alone define the class and its
            name is a label. Empty: all names do.
        added: whether `add` brought each class, so that `remove` takes it away again; empty: none.

    Raises:
        UserError: the vocabulary is empty or very large, a name is blank, very long or no text, or occurs twice; a
            class without words has no examples, a class has more than 5 or one of them twice, or no class has words.
    """

    names: tuple[str, ...]
    seen: tuple[bool, ...] | None = None
    examples: tuple[tuple[Example, ...], ...] = ()
    words: tuple[bool, ...] = ()
    added: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            raise UserError("The vocabulary is empty: give at least one class name.")
        if len(self.names) > _MOST_NAMES:
            raise UserError(f"The vocabulary has {len(self.names)} names, more than {_MOST_NAMES}: split it.")
        for position, name in enumerate(self.names):
            _check_name(name, f"Class name number {position + 1} of the vocabulary")
        # A line break is a blank to CLIP, and would tear what is written of the name.
        stripped = [" ".join(name.splitlines()).strip() for name in self.names]
        reads = [as_clip_reads(name) for name in stripped]
        for position, read in enumerate(reads):
            if not read.strip(" ,"):
                raise UserError(f"Class name number {position + 1} of the vocabulary is blank: remove or name it.")
        first: dict[str, str] = {}
        for name, read in zip(stripped, reads):
            if read in first:
                beside = "" if first[read] == name else f" (as {first[read]!r}, which CLIP reads alike)"
                raise UserError(f"Class name {name!r} occurs twice in the vocabulary{beside}: remove one.")
            first[read] = name
        if self.seen is not None and len(self.seen) != len(self.names):
            raise UserError(f"The vocabulary has {len(self.names)} names but {len(self.seen)} seen/unseen flags.")
        object.__setattr__(self, "names", tuple(stripped))
        self._check_examples()

    def _check_examples(self) -> None:
        # Equal content has one form.
        for name, default in (("examples", ()), ("words", True), ("added", False)):
            values = getattr(self, name)
            if values and len(values) != len(self.names):
                raise UserError(f"The vocabulary has {len(self.names)} names but {name!r} of {len(values)} classes.")
            if all(value == default for value in values):
                object.__setattr__(self, name, ())
        for name, shown_by in zip(self.names, self.examples):
            _check_number(name, shown_by)
        if self.words:
            if not any(self.words):
                raise UserError(
                    "No class of the vocabulary has words, and examples are compared with words: give at least one "
                    "class by its words, such as 'background'."
                )
            if bare := [name for index, name in enumerate(self.names) if not self.words[index] and not self.of(index)]:
                raise UserError(f"The class {bare[0]!r} has neither words nor examples: give it one of them.")

    def __len__(self) -> int:
        return len(self.names)

    def synonyms(self, index: int) -> tuple[str, ...]:
        """The comma-separated synonyms of one class, stripped."""
        return tuple(part.strip() for part in self.names[index].split(",") if as_clip_reads(part))

    def of(self, index: int) -> tuple[Example, ...]:
        """The examples of one class."""
        return self.examples[index] if self.examples else ()

    def looks(
        self, index: int, width: int, context: Mapping[str, Sequence[Tensor]] | None = None
    ) -> tuple[ExampleEmbeddings, ...]:
        """What the model in use saw of the examples of one class; of a vocabulary that `seen_by` gave.

        Args:
            width: D of its embeddings.
            context: of any images, see `maft.structures.EmbeddedMasks`; None: it is not needed.

        Raises:
            UserError: it was given by something else, or holds what this model cannot have seen.
        """
        if any(len(example.looks) != 1 for example in self.of(index)):
            raise UserError(
                f"It is open what this model saw of the examples of {self.names[index]!r}: give the vocabulary to a "
                "Predictor, or take Vocabulary.seen_by."
            )
        looks = tuple(look for example in self.of(index) for _, look in example.looks)
        for look in looks:
            _check_look(look, self.names[index], width, context)
        return looks

    def seen_by(self, fingerprint: str) -> Vocabulary:
        """The same with what one model saw of the examples, which it names masks with, and nothing of other models.

        Args:
            fingerprint: of the model, see `maft.index.looking.model_fingerprint`.

        Raises:
            UserError: the model has not looked at one of them.
        """
        if not self.examples:
            return self
        for name, examples in zip(self.names, self.examples):
            if any(example.look(fingerprint) is None for example in examples):
                raise UserError(
                    f"This model has not looked at the examples of {name!r}, which takes its image tower: "
                    "write that into the file with maft vocabulary prepare, or save what Predictor.prepare returns."
                )
        return replace(self, examples=tuple(tuple(one.seen_by(fingerprint) for one in of) for of in self.examples))

    def has_words(self, index: int) -> bool:
        """Whether the name of one class takes part."""
        return not self.words or self.words[index]

    def find(self, name: str) -> int | None:
        """Position of a class, given its name as CLIP reads it, in full or up to its first comma; None if none is."""
        asked = as_clip_reads(name)
        for known in (self.names, [one.partition(",")[0] for one in self.names]):
            if asked in (reads := [as_clip_reads(one) for one in known]):
                return reads.index(asked)
        return None

    def index(self, name: str) -> int:
        """The same.

        Raises:
            UserError: there is none.
        """
        if (found := self.find(name)) is None:
            raise UserError(f"The vocabulary has no class {name!r}.{closest(name, self.names)}")
        return found

    def add(self, name: str, masks: Sequence[Example], *, words: bool = True, seen: bool | None = None) -> Vocabulary:
        """A vocabulary in which examples show a class.

        Args:
            name: of a class that is there (see `find`), which they sharpen beside its words; or of a new one, which
                comes last.
            masks: 1 to 5 examples.
            words: False for a new class whose name takes no part: nothing but the examples defines it.
            seen: whether a new class counts as seen in training, by default not; that of one that is there stays.

        Raises:
            UserError: there are none or too many, the class has examples already, or the words of one that is there
                are to be left out.
        """
        listed = tuple(masks)
        if not listed or not all(isinstance(one, Example) for one in listed):
            raise UserError(f"Examples of {name!r} are a list of 1 to {MOST_EXAMPLES} maft.examples.Example.")
        _check_number(name, listed)
        if (at := self.find(name)) is not None:
            return self._sharpened(at, listed, words)
        return Vocabulary(
            (*self.names, name),
            None if self.seen is None else (*self.seen, bool(seen)),
            (*(self.of(index) for index in range(len(self))), listed),
            (*(self.has_words(index) for index in range(len(self))), words),
            (*(self.added or (False,) * len(self)), True),
        )

    def _sharpened(self, at: int, masks: tuple[Example, ...], words: bool) -> Vocabulary:
        name = self.names[at]
        if self.of(at):
            raise UserError(f"The class {name!r} has examples already: remove them first, or give all at once.")
        if not words:
            raise UserError(f"The class {name!r} is there by its words: choose another name for a class without words.")
        return replace(self, examples=tuple(masks if index == at else self.of(index) for index in range(len(self))))

    def remove(self, name: str) -> Vocabulary:
        """The vocabulary as it was before `add` gave a class examples, equal to it.

        Raises:
            UserError: there is no such class, or it has none.
        """
        at = self.index(name)
        if not self.of(at):
            raise UserError(f"The class {self.names[at]!r} has no examples to remove.")
        if self.added and self.added[at]:
            return self.of_classes(lambda index: index != at)
        return replace(self, examples=tuple(() if index == at else self.of(index) for index in range(len(self))))

    def without_examples(self) -> Vocabulary:
        """The vocabulary without all that `add` has brought."""
        kept = self.of_classes(lambda index: not (self.added and self.added[index]))
        return replace(kept, examples=())

    def in_words(self) -> Vocabulary:
        """The classes whose words take part, by their words alone: what text encoders are given."""
        return replace(self.of_classes(self.has_words), examples=(), added=()) if self.examples else self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file that `load` reads, in the format of `maft.vocabulary_file`.

        Raises:
            UserError: it cannot be written.
        """
        write_vocabulary(path, self.names, self.seen, self.examples, self.words, self.added)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """The vocabulary of a file that `save` has written; nothing of it is executed.

        Raises:
            UserError: it is no such file, or damaged.
        """
        return cls(**read_vocabulary(path))

    def of_classes(self, kept: Callable[[int], bool]) -> Vocabulary:
        """Some of the classes, in their order, with all that belongs to them; ``kept`` is asked of each position."""
        flags = [kept(index) for index in range(len(self))]
        return Vocabulary(
            tuple(compress(self.names, flags)),
            None if self.seen is None else tuple(compress(self.seen, flags)),
            tuple(compress(self.examples, flags)),
            tuple(compress(self.words, flags)),
            tuple(compress(self.added, flags)),
        )


def _check_look(look: ExampleEmbeddings, name: str, width: int, context: Mapping[str, Sequence[Tensor]] | None) -> None:
    of = f"What was kept of an example of {name!r}"
    again = "remove the examples of the class and add them again."
    if (kept := look.embeddings.shape[-1]) != width:
        raise UserError(f"{of} has width {kept}, and this model's have {width}: {again}")
    if context is None:
        return
    # The last two are the size of the image.
    expected = {key: (values[0].ndim, *values[0].shape[:-2]) for key, values in context.items()}
    if {key: (value.ndim, *value.shape[:-2]) for key, value in look.context.items()} != expected:
        raise UserError(f"{of} beside its embeddings is of another form than what this model keeps of images: {again}")


def _check_number(name: str, examples: Sequence[Example]) -> None:
    if len(examples) > MOST_EXAMPLES:
        raise UserError(f"The class {name!r} has {len(examples)} examples, and {MOST_EXAMPLES} are the most.")
    if len(set(examples)) < len(examples):
        raise UserError(f"The class {name!r} has the same example twice: give each once.")
