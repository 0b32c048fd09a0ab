"""An example of a class, shown in a picture by its mask, or by a box or clicks that a model answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchvision.ops import box_iou

from maft.data.masks import MaskLike, mask_of
from maft.data.pixels import ImageLike, pixels_of
from maft.errors import UserError
from maft.examples import Example
from maft.inference import ResizedMasks
from maft.predictor.loaded import LoadedModel
from maft.predictor.prompts import prompts_of
from maft.predictor.words import ClassNames, vocabulary_of
from maft.structures import Images, Prompts, Proposals, Vocabulary

# Least IoU of a box and the tight box of the mask that is taken for what it shows.
_LEAST_OVERLAP = 0.5


def masked_example(image: ImageLike, mask: MaskLike, value: int | None = None) -> Example:
    """An example that needs no model; see `ExampleSource.example`."""
    pixels = pixels_of(image)
    return Example(pixels, mask_of(mask, pixels.shape[:2], value))


class ExampleSource(LoadedModel):
    """A loaded model that makes examples of what a user shows in a picture."""

    @torch.no_grad()
    def example(
        self,
        image: ImageLike,
        *,
        mask: MaskLike | None = None,
        value: int | None = None,
        box: ArrayLike | None = None,
        points: Sequence[ArrayLike] | NDArray[np.generic] | None = None,
        class_names: ClassNames | None = None,
    ) -> Example:
        """What a class looks like, for `Vocabulary.add`: a picture and the mask of one object or region in it.

        A box and points are answered by a proposer that takes them (SAM) with the mask that it gives. Of any other
        model it is the proposal that fits best: for a box that whose tight box has the highest IoU with it, for points
        the smallest one on which all of them lie, and none of those with the label 0.

        Args:
            image: see `maft.data.pixels.pixels_of`.
            mask: of one object, at the size of the image as it is shown, see `maft.data.masks.mask_of`; then the model
                is not asked.
            value: ``mask`` is a label map, and the pixels of this value are meant.
            box: x0, y0, x1, y1 in pixels around the object, the right and lower ends exclusive.
            points: one (x, y) on the object, or a list of (x, y) and (x, y, label), 1 on it and 0 outside.
            class_names: for a model whose masks depend on words, what to look for; None: the training vocabulary.

        Raises:
            UserError: not one of mask, box and points is given; image or mask cannot be read or used; box or points
                lie outside the picture; or no proposal fits them.
        """
        if sum(one is not None for one in (mask, box, points)) != 1:
            raise UserError("An example is shown by one of mask, box and points: give one of them.")
        if mask is not None:
            return masked_example(image, mask, value)
        if value is not None:
            raise UserError("A value is that of a label map: give the map as the mask.")
        pixels = pixels_of(image)
        boxes: Any = None if box is None else [box]
        objects: Any = None if points is None else [points]
        prompts = prompts_of(boxes, objects, pixels.shape[:2])
        masks = self._masks(image, pixels, prompts, class_names)
        if self.model.proposer.takes_prompts:
            found = masks.binary(0)
            if not found.any():
                raise UserError(f"The model sees nothing {_place(prompts)}: show it by another box or point.")
            return Example(pixels, found)
        return Example(pixels, masks.binary(_fitting(masks, prompts)))

    def _masks(
        self, image: ImageLike, pixels: NDArray[np.uint8], prompts: Prompts, class_names: ClassNames | None
    ) -> _Masks:
        words = self._words_to_look_for(class_names)
        asked = prompts if self.model.proposer.takes_prompts else None
        record = self._record(image, pixels, asked)
        with self._autocast():
            images = self.model.padded([record])
            proposals = self.model.propose(images, [record], words)
        return _Masks.of(proposals, images, pixels.shape[:2])

    def _words_to_look_for(self, class_names: ClassNames | None) -> Vocabulary:
        if class_names is not None:
            return vocabulary_of(class_names, self._training)
        if self._training is None and self.model.proposer.reads_words:
            raise UserError("What this model proposes depends on words: say what to look for by class names.")
        return self._known_words


@dataclass(frozen=True)
class _Masks:
    """The proposals of one picture at its size; never all of them at once.

    Attributes:
        resized: Q of them.
        valid: (Q,) bool.
    """

    resized: ResizedMasks
    valid: Tensor

    @classmethod
    def of(cls, proposals: Proposals, images: Images, size: tuple[int, int]) -> _Masks:
        everything = proposals.masks.new_ones(proposals.masks.shape[1], dtype=torch.bool)
        valid = everything if proposals.valid is None else proposals.valid[0]
        return cls(ResizedMasks.of(proposals, images.sizes[0], size), valid)

    def binary(self, index: int) -> NDArray[np.bool_]:
        """(H, W) of one of them."""
        one = self.resized.selected(torch.tensor([index], device=self.valid.device))
        return torch.cat([self._inside(values)[0] for _, values in one.strips()]).cpu().numpy()

    def measured(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What there is to know of all of them.

        Args:
            places: (k, 2) int64, x and y of pixels.

        Returns:
            tight boxes (Q, 4) int64, the right and lower ends exclusive; areas (Q,) int64 in pixels, 0 of those that
            can be no example: not valid, or the whole picture; whether each place is inside (Q, k) bool.
        """
        height, width = self.resized.size
        in_rows = self.valid.new_zeros(len(self.valid), height)
        in_columns = self.valid.new_zeros(len(self.valid), width)
        areas = torch.zeros(len(self.valid), dtype=torch.int64, device=self.valid.device)
        covers = self.valid.new_zeros(len(self.valid), len(places))
        for rows, values in self.resized.strips():
            inside = self._inside(values)
            in_rows[:, rows] = inside.any(2)
            in_columns |= inside.any(1)
            areas += inside.flatten(1).sum(1)
            here = (places[:, 1] >= rows.start) & (places[:, 1] < rows.stop)
            covers[:, here] = inside[:, places[here, 1] - rows.start, places[here, 0]]
        boxes = torch.stack([*_ends(in_columns), *_ends(in_rows)], dim=1)[:, [0, 2, 1, 3]]
        return boxes, areas * (self.valid & (areas < height * width)), covers

    def _inside(self, values: Tensor) -> Tensor:
        return values > (0 if self.resized.tile.are_logits else 0.5)


def _ends(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First and one behind the last (Q,) of the occupied places (Q, n)."""
    numbers = occupied.byte()
    return numbers.argmax(1), numbers.shape[1] - numbers.flip(1).argmax(1)


def _fitting(masks: _Masks, prompts: Prompts) -> int:
    """The mask that fits a box or the points of an object best.

    Raises:
        UserError: none fits.
    """
    prompts = prompts.to(masks.valid.device)
    if prompts.points:
        (points,) = prompts.points
        on_it = points[:, 2] > 0
        _, areas, covers = masks.measured(points[:, :2].long())
        fits = (areas > 0) & (covers == on_it).all(1)
        if not fits.any():
            raise UserError(
                f"No mask that the model proposes fits {_place(prompts)}: show the object by a mask, by a box, or by "
                "another model."
            )
        return int(areas.masked_fill(~fits, torch.iinfo(areas.dtype).max).argmin())
    boxes, areas, _ = masks.measured(prompts.boxes.new_zeros(0, 2).long())
    overlaps = box_iou(boxes.to(prompts.boxes.dtype), prompts.boxes)[:, 0] * (areas > 0)
    if overlaps.max() < _LEAST_OVERLAP:
        raise UserError(
            f"No mask that the model proposes fits {_place(prompts)} (the best box has an IoU of {overlaps.max():.2f}, "
            f"and {_LEAST_OVERLAP} is the least): draw it tightly, or show the object by a mask or another model."
        )
    return int(overlaps.argmax())


def _place(prompts: Prompts) -> str:
    if prompts.points:
        inside, outside = ([_written(row[:2]) for row in prompts.points[0] if row[2] == on] for on in (1, 0))
        return "at " + " and ".join(inside) + (f" but not at {' or at '.join(outside)}" if outside else "")
    return f"in the box {_written(prompts.boxes[0])}"


def _written(numbers: Tensor) -> str:
    return f"({', '.join(f'{number:g}' for number in numbers.tolist())})"
