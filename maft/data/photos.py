"""Pictures that belong to no dataset, as a model is given them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from numpy.typing import NDArray

from maft.data.augmentations import ResizeShortestEdge
from maft.data.pixels import pixels_of
from maft.data.reading import Record


def resize_at_test(cfg: CfgNode) -> ResizeShortestEdge:
    """The resize to ``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``."""
    return ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST, "choice")


def photo_record(pixels: NDArray[np.uint8], resize: ResizeShortestEdge, image_format: str) -> dict[str, Any]:
    """A picture as a record: "image" (3, h, w) uint8, resized, and its own "height" and "width".

    Args:
        pixels: (H, W, 3) RGB.
        image_format: of "image", ``"RGB"`` or ``"BGR"``.
    """
    resized = resize.get_transform(pixels).apply_image(pixels)
    channels = resized if image_format == "RGB" else resized[..., ::-1]
    image = torch.as_tensor(np.ascontiguousarray(channels.transpose(2, 0, 1)))
    return {"image": image, "height": pixels.shape[0], "width": pixels.shape[1]}


class PhotoMapper:
    """Maps records of a "file_name" alone.

    Args:
        cfg: config of the model that is to see the pictures.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.resize, self.image_format = resize_at_test(cfg), cfg.INPUT.FORMAT

    def __call__(self, record: Record) -> Record:
        """The record with what `photo_record` adds; raises `UserError` where the picture cannot be read."""
        return {**record, **photo_record(pixels_of(record["file_name"]), self.resize, self.image_format)}
