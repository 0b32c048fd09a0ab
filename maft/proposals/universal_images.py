"""How images go into a universal segmenter of transformers, and how its masks come out, as its own processor says."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.errors import UserError, first_line
from maft.proposals.transformers_models import Source, quietly, transformers_class

Size = tuple[int, int]

# A logit so low that its sigmoid is zero to eight digits, and that still can be interpolated in half precision.
OUTSIDE = -20.0
# To this size transformers scales the masks of every Mask2Former before anything else.
_MASK2FORMER_SIZE = (384, 384)
# Of the masks of one image, 2 GB: those of more are coarser.
MOST_VALUES = 2**29
_MOST_PIECES = 32
# What no pyramid of features can be made of, whose coarsest level is a 32nd.
_TOO_SMALL = 32
# Flat, high and square.
_TRIED_SIZES = ((24, 96), (96, 24), (64, 64))
_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")

log = logging.getLogger(__name__)


@dataclass
class Prepared:
    """One image as the model takes it.

    Attributes:
        pixels: (n, 3, h, w) normalised; several views where the processor cuts the image.
        span: size that the masks of a view are scaled to; None: they stay as they are.
        canvas: size of the image among those masks, without padding; None: they are all of it.
        starts: (row, column) of each view in the canvas.
    """

    pixels: Tensor
    span: Size | None = None
    canvas: Size | None = None
    starts: Sequence[Size] = ((0, 0),)

    @property
    def is_whole(self) -> bool:
        """Whether the one view shows the image alone, so that masks of any size span it."""
        return self.canvas in (None, self.span)

    def masks(self, logits: Tensor) -> Tensor:
        """Mask logits of the views (n, Q, h, w) -> those of the image (n Q, h', w'), a view's queries in a row.

        Outside its view a mask is `OUTSIDE`. The masks of many views are coarser, `MOST_VALUES` in all.
        """
        if self.canvas is None or self.span is None:
            return (logits if self.span is None else _resized(logits, self.span))[0]
        views, queries = logits.shape[:2]
        scale = scale_that_fits(views * queries, self.canvas)
        span = scaled(self.span, scale)
        masks = logits.new_full((views, queries, *scaled(self.canvas, scale)), OUTSIDE)
        for index, (top, left) in enumerate(self.starts):
            rows, columns = slice(round(top * scale), None), slice(round(left * scale), None)
            # What lies beyond the image is cut.
            place = masks[index, :, rows, columns][:, : span[0], : span[1]]
            place.copy_(_resized(logits[index : index + 1], span)[0, :, : place.shape[1], : place.shape[2]])
        return masks.flatten(0, 1)


def scale_that_fits(count: int, size: Size) -> float:
    """By how much the sides of so many masks of a size must shrink for them to have `MOST_VALUES`; at most 1."""
    return min(1.0, math.sqrt(MOST_VALUES / (count * size[0] * size[1])))


def scaled(size: Size, scale: float) -> Size:
    """(height, width) in whole pixels, at least one."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized(logits: Tensor, size: Size) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


class Preparation:
    """Turns images into a model's input by the rules of its image processor.

    Args:
        processor: an image processor of transformers, or VideoMT's video processor.
        config: that of the model.
        place: where both were read, for the messages.

    Raises:
        UserError: the processor fails on images, or its output does not fit the model: its settings may be anything.
    """

    def __init__(self, processor: Any, config: Any, place: str) -> None:
        self.processor, self.kind, self.place = processor, config.model_type, place
        self.fixed = isinstance(getattr(config, "image_size", None), int) and self.kind.startswith(("eomt", "videomt"))
        self.side = config.image_size if self.fixed else None
        # Models are built on the meta device too.
        with torch.device("cpu"):
            for size in _TRIED_SIZES:
                # Both ends of the range: what lies between is finite if they are, and no later image is waited for.
                tried = torch.zeros(3, *size)
                tried[..., ::2] = 255
                self._check_finite(self(tried).pixels, size)

    def __call__(self, image: Tensor) -> Prepared:
        """An image (3, h, w) in 0..255, without padding, as the model takes it; rounded to whole values.

        Raises:
            UserError: see the class; or the image is too small, or so long that it would be cut into many pieces.
        """
        size = int(image.shape[-2]), int(image.shape[-1])
        said = f"The image processor of {self.place}"
        picture = f"a picture of {size[0]}x{size[1]}"
        try:
            pieces = self._pieces(size)
            prepared = self._prepared(image, size) if pieces <= _MOST_PIECES else None
        except Exception as error:
            # The library raises whatever it meets; what does not fit into the memory is told by who started it.
            if "memory" in str(error) or isinstance(error, MemoryError):
                raise
            raise UserError(
                f"{said} fails on {picture} pixels ({first_line(error)[:200]}): correct its preprocessor_config.json, "
                "or cut the picture if it is a very long one."
            ) from error
        if prepared is None:
            raise UserError(
                f"{said} cuts {picture} pixels into {pieces} pieces, more than {_MOST_PIECES}: cut it into shorter "
                "pictures."
            )
        found = (int(prepared.pixels.shape[-2]), int(prepared.pixels.shape[-1]))
        if self.fixed and found != (self.side, self.side):
            raise UserError(
                f"{said} makes images of {found[0]}x{found[1]} pixels, and the model takes {self.side}x{self.side} "
                "alone: give its preprocessor_config.json that size, with do_pad or do_split_image."
            )
        if not self.fixed and max(found) <= _TOO_SMALL:
            raise UserError(
                f"{said} makes {found[0]}x{found[1]} pixels of {picture}: take a larger one, or a larger size in its "
                "preprocessor_config.json."
            )
        return prepared

    def _check_finite(self, pixels: Tensor, size: Size) -> None:
        if not pixels.isfinite().all():
            raise UserError(
                f"The image processor of {self.place} makes values that are not finite of a picture of "
                f"{size[0]}x{size[1]} pixels: correct image_mean, image_std and rescale_factor in its "
                "preprocessor_config.json."
            )

    def _pieces(self, size: Size) -> int:
        if not (self.kind.startswith("eomt") and self.processor.do_split_image):
            return 1
        return math.ceil(max(self._canvas_of_eomt(size)) / self.processor.size["shortest_edge"])

    def _prepared(self, image: Tensor, size: Size) -> Prepared:
        whole = image.round().clamp(0, 255).to(torch.uint8)
        options = {"return_tensors": "pt", "input_data_format": "channels_first", "device": image.device}
        if self.kind == "videomt":
            return Prepared(self.processor(videos=whole[None], **options)["pixel_values_videos"][0])
        made = self.processor(images=[whole], **options)
        prepared = Prepared(made["pixel_values"])
        self._add_geometry(prepared, made, size)
        return prepared

    def _add_geometry(self, prepared: Prepared, made: Any, size: Size) -> None:
        if self.kind.startswith("eomt"):
            self._add_geometry_of_eomt(prepared, made, size)
            return
        if self.kind == "mask2former":
            prepared.span = _MASK2FORMER_SIZE
        inside = made["pixel_mask"][0]
        span = (int(inside.shape[0]), int(inside.shape[1]))
        # One read for both sides.
        height, width = torch.stack([inside.any(1).sum(), inside.any(0).sum()]).tolist()
        if (height, width) != span:
            # With a PAD_SIZE of its own the processor pads below and to the right.
            prepared.span, prepared.canvas = span, (height, width)

    def _canvas_of_eomt(self, size: Size) -> Size:
        from transformers.image_transforms import get_size_with_aspect_ratio

        height, width = get_size_with_aspect_ratio(
            size, self.processor.size["shortest_edge"], self.processor.size["longest_edge"]
        )
        return int(height), int(width)

    def _add_geometry_of_eomt(self, prepared: Prepared, made: Any, size: Size) -> None:
        short, long = self.processor.size["shortest_edge"], self.processor.size["longest_edge"]
        prepared.span = (short, long or short)
        if not (self.processor.do_split_image or self.processor.do_pad):
            return
        prepared.canvas = height, width = self._canvas_of_eomt(size)
        if self.processor.do_split_image:
            starts = [int(start) for _, start, _ in made["patch_offsets"]]
            prepared.starts = [(start, 0) if height > width else (0, start) for start in starts]


def load_processor(source: Source, name: str, config: Any) -> Any:
    """The image processor of a model, by the name of its class.

    Where its settings are missing (``preprocessor_config.json``) the log says so, and those of its class hold, with
    the size that a model of one size takes, padded.

    Raises:
        UserError: they cannot be read.
    """
    # Before release 5 those that work on tensors had a name of their own.
    fast = _before_release_5() and name.endswith("ImageProcessor")
    kind = transformers_class(f"{name}Fast" if fast else name, "4.56", source)
    # OneFormer's would fetch the classes of its training from a repository of their own; images need none.
    options = {"class_info_file": None} if name.startswith("OneFormer") else {}
    local = os.path.isdir(source.weights)
    if not local or any(os.path.isfile(os.path.join(source.weights, file)) for file in _FILES):
        try:
            with quietly():
                return kind.from_pretrained(source.weights, **options)
        except Exception as error:
            # Settings may be anything, and the library raises whatever it meets; OSError where a repository has none.
            if local or not isinstance(error, OSError):
                raise UserError(
                    f"The image processor of {source.node} {source.weights} cannot be read "
                    f"({first_line(error)[:200]}): download its preprocessor_config.json again."
                ) from error
    log.warning(
        "%s %s has no preprocessor_config.json: its images get the size and normalisation that are usual for %s.",
        source.node, source.weights, name,
    )  # fmt: skip
    return kind(**options, **_usual_size(name, config))


def _usual_size(name: str, config: Any) -> dict[str, Any]:
    side = getattr(config, "image_size", None)
    if name.startswith("Eomt"):
        return {"size": {"shortest_edge": side, "longest_edge": side}, "do_pad": True}
    return {"size": {"height": side, "width": side}} if name.startswith("Videomt") else {}


def _before_release_5() -> bool:
    import transformers

    return int(transformers.__version__.split(".")[0]) < 5
