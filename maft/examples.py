"""Examples: masks of images that show what a class looks like."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maft.errors import UserError, shown

# Of one class: more are a training set, which a training makes more of.
MOST_EXAMPLES = 5
# A phone's largest photographs.
MOST_PIXELS = 64_000_000
# Masks of which at most this share lies on an example show something else.
ELSEWHERE = 0.2


@dataclass(frozen=True, eq=False)
class ExampleEmbeddings:
    """What a model saw of an example: its mask beside other masks of the image.

    Attributes:
        embeddings: (1 + K, D) float32 on the CPU, before normalisation: of the example, then of K other masks, which
            are those that the model proposes in the image and the rest of the image as one.
        shares: (1 + K,) float32, which share of each mask lies on the example.
        context: what else of the image texts are compared with, one tensor each, see
            `maft.structures.EmbeddedMasks`.
    """

    embeddings: Tensor
    shares: Tensor
    context: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def elsewhere(self) -> Tensor:
        """(1 + K,) bool, masks that show something else. Where there is none, nothing says what the example is not."""
        return self.shares <= ELSEWHERE


@dataclass(frozen=True, eq=False)
class Example:
    """A mask of an image that shows a class; two are equal that have the same pixels.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, True where the class is.
        looks: what models saw of it, by the fingerprint of the model; takes no part in comparisons, as it follows from
            the pixels.
        digest: SHA-256 of image and mask, in hexadecimal.

    Raises:
        UserError: image or mask is of another form, they differ in size, or the mask is empty or the whole image.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    looks: tuple[tuple[str, ExampleEmbeddings], ...] = ()
    digest: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        image, mask = self.image, self.mask
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
            raise UserError(f"The image of an example is an array (H, W, 3) of uint8, not {_described(image)}.")
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 2:
            raise UserError(f"The mask of an example is an array (H, W) of bool, not {_described(mask)}.")
        (height, width), (rows, columns) = image.shape[:2], mask.shape
        if (height, width) != (rows, columns):
            raise UserError(
                f"An example mask has {columns}x{rows} pixels and its image {width}x{height}: give the mask at the "
                "size of the image."
            )
        if height * width > MOST_PIXELS:
            raise UserError(
                f"The image of an example has {width}x{height} pixels, and {MOST_PIXELS // 10**6} million are the "
                "most: make it smaller."
            )
        if not mask.any():
            raise UserError("An example mask is empty: mark at least one pixel of what it should show.")
        if mask.all():
            raise UserError(
                "An example mask covers its whole image, and nothing in it is anything else: give an image with some "
                "surroundings."
            )
        digest = hashlib.sha256(f"{height} {width} ".encode())
        image, mask = np.array(image, order="C"), np.array(mask, order="C")
        digest.update(image.data)
        digest.update(np.packbits(mask).data)
        for name, array in (("image", image), ("mask", mask)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "digest", digest.hexdigest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Example) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def look(self, fingerprint: str) -> ExampleEmbeddings | None:
        """What a model saw of it, or None."""
        return dict(self.looks).get(fingerprint)

    def seen_by(self, fingerprint: str) -> Example:
        """The same example with what one model saw of it alone."""
        return replace(self, looks=tuple(one for one in self.looks if one[0] == fingerprint))

    def with_look(self, fingerprint: str, look: ExampleEmbeddings) -> Example:
        """The same example with what one more model saw of it."""
        return replace(self, looks=tuple({**dict(self.looks), fingerprint: look}.items()))


def _described(value: object) -> str:
    return f"{value.shape} of {value.dtype}" if isinstance(value, np.ndarray) else shown(type(value))
