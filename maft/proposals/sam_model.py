"""SAM and SAM 2 of the transformers library: finding their weights, and the geometry in which they differ."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import nms

from maft.errors import UserError
from maft.layers.crops import tight_boxes


def stability(logits: Tensor, offset: float) -> Tensor:
    """IoU of the masks cut at ``+offset`` and at ``-offset``: (n, h, w) -> (n,); NaN where both are empty."""
    inner = (logits > offset).flatten(1).sum(1)
    outer = (logits > -offset).flatten(1).sum(1)
    return inner / outer


def without_small_regions(masks: Tensor, least_area: int, iou_threshold: float) -> Tensor:
    """Fills holes and drops islands below an area, then drops masks that became duplicates of untouched ones.

    Args:
        masks: (n, h, w) bool, none of them empty.
        least_area: in pixels.
        iou_threshold: of boxes.

    Returns:
        (k, h, w) bool, k <= n.
    """
    if not len(masks):
        return masks
    cleaned = [drop_islands(fill_holes(mask, least_area), least_area) for mask in masks.cpu().numpy()]
    result = torch.from_numpy(np.stack(cleaned)).to(masks.device)
    untouched = (result == masks).flatten(1).all(1)
    return result[nms(tight_boxes(result).float(), untouched.float(), iou_threshold)]


def fill_holes(mask: NDArray[np.bool_], least_area: int) -> NDArray[np.bool_]:
    """A mask (h, w) with the connected parts of its complement that are below an area filled."""
    labels, areas = _components(~mask)
    small = areas < least_area
    small[0] = False
    return mask | small[labels]


def drop_islands(mask: NDArray[np.bool_], least_area: int) -> NDArray[np.bool_]:
    """A mask (h, w) without its connected parts below an area; where all are, the largest one stays."""
    labels, areas = _components(mask)
    areas[0] = 0
    kept = areas >= least_area
    kept[areas.argmax()] = True
    kept[0] = False
    return kept[labels]


def _components(mask: NDArray[np.bool_]) -> tuple[Any, Any]:
    """8-connected components of a mask: their labels (h, w) int32, 0 outside, and areas by label, (count,) int32."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return labels, statistics[:, cv2.CC_STAT_AREA]


_NODE = "MODEL.PROPOSER.SAM"
_SAM2_TYPES = ("sam2", "sam2_video")


def load_sam(weights: str) -> nn.Module:
    """A SAM or SAM 2 model in float32.

    Args:
        weights: a folder with ``config.json`` and ``model.safetensors``, or a Hugging Face hub id
            (``facebook/sam-vit-huge``, ``facebook/sam2.1-hiera-large``).

    Raises:
        UserError: transformers is missing or too old, or the weights are missing, of another model or incomplete.
    """
    try:
        import transformers
        from transformers import AutoConfig, Sam2Model, SamModel
    except ImportError as error:
        raise UserError(
            "The SAM proposer needs the transformers package, 4.56 or newer: pip install 'maft[sam]'."
        ) from error
    if os.path.isfile(weights):
        raise UserError(
            f"{_NODE}.PRETRAINED {weights} is a file, but SAM is read from a folder with config.json and "
            "model.safetensors, as on https://huggingface.co/facebook/sam-vit-huge/tree/main."
        )
    if "://" in weights:
        raise UserError(f"{_NODE}.PRETRAINED is {weights}: give a folder or a hub id, not an address.")
    verbosity = transformers.logging.get_verbosity()
    # A SAM 2 checkpoint also holds its video memory, about which transformers would print a long table.
    transformers.logging.set_verbosity_error()
    try:
        kind = AutoConfig.from_pretrained(weights).model_type
        if kind != "sam" and kind not in _SAM2_TYPES:
            raise UserError(f"{_NODE}.PRETRAINED {weights} holds a {kind!r} model: give a SAM or SAM 2 model.")
        model_class: Any = SamModel if kind == "sam" else Sam2Model
        if torch.get_default_device().type == "meta":
            # Only names and shapes are wanted, and transformers refuses to read weights then.
            return model_class(model_class.config_class.from_pretrained(weights))
        model, loading = model_class.from_pretrained(weights, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise UserError(_missing(weights)) from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    if loading["missing_keys"]:
        some = ", ".join(sorted(loading["missing_keys"])[:3])
        raise UserError(
            f"{_NODE}.PRETRAINED {weights} is incomplete: it lacks {some}; download model.safetensors again."
        )
    return model.float()


def _missing(weights: str) -> str:
    if os.path.exists(weights):
        return (
            f"{_NODE}.PRETRAINED folder {weights} lacks a readable config.json or model.safetensors: download both "
            "from https://huggingface.co/facebook/sam-vit-huge (or another SAM) into it."
        )
    return (
        f"SAM's weights {weights} are neither a folder nor in the Hugging Face cache, and cannot be downloaded here: "
        f"download config.json and model.safetensors from https://huggingface.co/{weights} into a folder and set "
        f"{_NODE}.PRETRAINED to that folder."
    )


class SAMGeometry:
    """How images, points and masks go in and out of a SAM: both versions see a square.

    SAM scales the longest side to it and pads; SAM 2 squashes the image.

    Args:
        model: ``transformers.SamModel`` or ``transformers.Sam2Model``.

    Raises:
        UserError: another model.
    """

    def __init__(self, model: Any) -> None:
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        if kind != "sam" and kind not in _SAM2_TYPES:
            raise UserError(f"The SAM proposer runs SamModel or Sam2Model of transformers, not a {kind!r} model.")
        self.squashes = kind != "sam"
        config = model.config.prompt_encoder_config if self.squashes else model.config.vision_config
        side = config.image_size
        self.side = int(side if isinstance(side, int) else side[0])

    def scaled_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of an image inside the square."""
        if self.squashes:
            return self.side, self.side
        scale = self.side / max(size)
        return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)

    def pixels(self, image: Tensor) -> Tensor:
        """(3, h, w) -> (3, h', w') by the size rule, with antialiasing, before normalisation and padding."""
        size = self.scaled_size((int(image.shape[-2]), int(image.shape[-1])))
        return F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]

    def coordinates(self, points: Tensor, size: tuple[int, int]) -> Tensor:
        """(..., 2) as x, y in pixels of an image of this size -> in pixels of the square."""
        height, width = self.scaled_size(size)
        return points * points.new_tensor([width / size[1], height / size[0]])

    def full_size(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Mask logits (n, h', w') of the decoder -> (n, *size), at the image's size."""
        if not len(logits):
            return logits.new_zeros(0, *size)
        maps = logits[None]
        if not self.squashes:
            height, width = self.scaled_size(size)
            maps = F.interpolate(maps, (self.side, self.side), mode="bilinear", align_corners=False)
            maps = maps[..., :height, :width]
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)[0]


def point_grid(points_per_side: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """(n * n, 2) x, y in pixels: the centres of n x n equal cells of an image, row by row."""
    centres = (torch.arange(points_per_side, device=device) + 0.5) / points_per_side
    y, x = torch.meshgrid(centres * size[0], centres * size[1], indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)
