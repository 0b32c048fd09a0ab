"""Examples that a visitor has shown, by class; they join the words of every question."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from maft.app.photos import encoded
from maft.errors import UserError
from maft.examples import Example
from maft.vocabulary import Vocabulary, as_clip_reads

# Of one visitor: each holds its picture.
MOST_CLASSES = 20


@dataclass(frozen=True)
class ShownClass:
    """A class with examples.

    Attributes:
        name: what it is called.
        words: whether the name takes part, or the examples alone define the class.
        examples: 1 to 5.
    """

    name: str
    words: bool
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Shown:
    """What one visitor has shown, oldest first."""

    classes: tuple[ShownClass, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that it needs."""
        return sum(one.image.nbytes + one.mask.nbytes for of in self.classes for one in of.examples)

    def add(self, name: str, example: Example, words: bool) -> Shown:
        """With one more example of a class.

        Raises:
            UserError: the name is blank, or there are too many classes or examples.
        """
        read = as_clip_reads(name)
        if not read:
            raise UserError("The class has no name: write one. Without words it is but a label.")
        known = {as_clip_reads(one.name): one for one in self.classes}
        # What a vocabulary checks, among other words: their number, and that none is there twice.
        before = known[read].examples if read in known else ()
        Vocabulary(("anything", name) if read != "anything" else (name,)).add(name, [*before, example])
        if read not in known and len(known) == MOST_CLASSES:
            raise UserError(f"{MOST_CLASSES} classes have examples, which is the most: remove one.")
        known[read] = ShownClass(known[read].name if before else name.strip(), words, (*before, example))
        return Shown(tuple(known.values()))

    def remove(self, name: str) -> Shown:
        """Without the examples of a class."""
        return Shown(tuple(one for one in self.classes if one.name != name))

    def beside(self, vocabulary: Vocabulary) -> Vocabulary:
        """A vocabulary with these examples; without any it is as it is.

        Raises:
            UserError: a class without words is among the words.
        """
        for one in self.classes:
            vocabulary = vocabulary.add(one.name, one.examples, words=one.words)
        return vocabulary


def thumbnail(example: Example, most: int = 160) -> bytes:
    """A PNG of an example: what is not it is dim, and its outline is white."""
    image = np.where(example.mask[..., None], example.image, example.image // 4 + 24)
    inner = example.mask.copy()
    inner[1:-1, 1:-1] &= (
        example.mask[:-2, 1:-1] & example.mask[2:, 1:-1] & example.mask[1:-1, :-2] & example.mask[1:-1, 2:]
    )
    image[example.mask & ~inner] = 255
    picture = Image.fromarray(image.astype(np.uint8))
    picture.thumbnail((most, most))
    return encoded(picture, "PNG")
