"""How images go into a universal segmenter of transformers, and how its masks come out, as its own processor says."""

from __future__ import annotations

import logging
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

        Outside its view a mask is `OUTSIDE`.
        """
        if self.span is not None:
            logits = F.interpolate(logits, self.span, mode="bilinear", align_corners=False)
        if self.canvas is None:
            return logits[0]
        rows, columns = self.canvas
        height, width = logits.shape[-2:]
        # Negative padding cuts what lies beyond the image.
        return torch.cat(
            [
                F.pad(view, (left, columns - left - width, top, rows - top - height), value=OUTSIDE)
                for view, (top, left) in zip(logits, self.starts, strict=True)
            ]
        )


class Preparation:
    """Turns images into a model's input by the rules of its image processor.

    Args:
        processor: an image processor of transformers, or VideoMT's video processor.
        config: that of the model.
    """

    def __init__(self, processor: Any, config: Any) -> None:
        self.processor, self.kind = processor, config.model_type
        self.fixed = isinstance(getattr(config, "image_size", None), int) and self.kind.startswith(("eomt", "videomt"))
        self.side = config.image_size if self.fixed else None

    def __call__(self, image: Tensor) -> Prepared:
        """An image (3, h, w) in 0..255, without padding, as the model takes it; rounded to whole values.

        Raises:
            UserError: the processor makes images of another size than a model of one size takes.
        """
        whole = image.round().clamp(0, 255).to(torch.uint8)
        if self.kind == "videomt":
            prepared = Prepared(self.processor(videos=whole[None], return_tensors="pt")["pixel_values_videos"][0])
        else:
            made = self.processor(images=[whole], return_tensors="pt")
            prepared = Prepared(made["pixel_values"].to(image.device))
            self._add_geometry(prepared, made, (int(image.shape[-2]), int(image.shape[-1])))
        height, width = prepared.pixels.shape[-2:]
        if self.fixed and (height, width) != (self.side, self.side):
            raise UserError(
                f"The image processor of this model makes images of {height}x{width} pixels, and the model takes "
                f"{self.side}x{self.side} alone: give its preprocessor_config.json that size, with do_pad or "
                "do_split_image."
            )
        return prepared

    def _add_geometry(self, prepared: Prepared, made: Any, size: Size) -> None:
        if self.kind.startswith("eomt"):
            self._add_geometry_of_eomt(prepared, made, size)
            return
        if self.kind == "mask2former":
            prepared.span = _MASK2FORMER_SIZE
        inside = made["pixel_mask"][0]
        if not inside.all():
            # With a PAD_SIZE of its own the processor pads below and to the right.
            prepared.span = (int(inside.shape[0]), int(inside.shape[1]))
            prepared.canvas = (int(inside.any(1).sum()), int(inside.any(0).sum()))

    def _add_geometry_of_eomt(self, prepared: Prepared, made: Any, size: Size) -> None:
        from transformers.image_transforms import get_size_with_aspect_ratio

        short, long = self.processor.size["shortest_edge"], self.processor.size["longest_edge"]
        prepared.span = (short, long or short)
        if not (self.processor.do_split_image or self.processor.do_pad):
            return
        height, width = get_size_with_aspect_ratio(size, short, long)
        prepared.canvas = (int(height), int(width))
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
