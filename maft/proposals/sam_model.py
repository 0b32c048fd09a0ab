"""The family of SAM in the transformers library: its members, and what goes into them and comes out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from maft.errors import UserError
from maft.interfaces import Proposer
from maft.options import Rgb
from maft.proposals.mobile_sam import load_mobile_sam
from maft.proposals.transformers_models import Family, Source, load_model
from maft.structures import Images

_IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
HALF = (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)


@dataclass(frozen=True)
class SAMFamily(Family):
    """What is common to the models of one type.

    Attributes:
        squashes: whether an image becomes a square by squashing; otherwise its longest side is scaled to the square's,
            and the rest padded.
        normalisation: mean and standard deviation of RGB images in 0..255.
        iou_threshold: that of the released mask generator.
    """

    squashes: bool = True
    normalisation: tuple[Rgb, Rgb] = _IMAGENET
    iou_threshold: float = 0.8


_SAM2 = SAMFamily("Sam2Model", "4.56")
_EDGE_TAM = SAMFamily("EdgeTamModel", "4.57")
_SAM3 = SAMFamily("Sam3TrackerModel", "5.0", normalisation=HALF)
# By ``model_type``; the files of a video model hold that of single images, which alone is read of them.
FAMILIES = {
    "sam": SAMFamily("SamModel", squashes=False, iou_threshold=0.88),
    "sam_hq": SAMFamily("SamHQModel", squashes=False, iou_threshold=0.88),
    "sam2": _SAM2,
    "sam2_video": _SAM2,
    "edgetam": _EDGE_TAM,
    "edgetam_video": _EDGE_TAM,
    "sam3_tracker": _SAM3,
    "sam3_tracker_video": _SAM3,
    "sam3_video": replace(
        _SAM3,
        renamed={
            r"^detector_model\.vision_encoder\.backbone\.": "vision_encoder.backbone.",
            r"^tracker_neck\.": "vision_encoder.neck.",
            r"^tracker_model\.": "",
        },
    ),
}


def load_sam(weights: str) -> nn.Module:
    """A model of the family in float32.

    Args:
        weights: a folder with ``config.json`` and ``model.safetensors``, a Hugging Face hub id
            (``facebook/sam-vit-huge``, ``facebook/sam2.1-hiera-large``), or MobileSAM's released file.

    Raises:
        UserError: transformers is missing or too old, or the weights are missing, of another model or incomplete.
    """
    source = Source(weights, "MODEL.PROPOSER.SAM.PRETRAINED", "a SAM model", "facebook/sam-vit-huge")
    return load_mobile_sam(source) if os.path.isfile(weights) else load_model(source, FAMILIES)


class NeverTrained(Proposer):
    """A proposer that comes with its weights and keeps them."""

    brings_weights = True

    def train(self, mode: bool = True) -> Any:
        """Always in eval mode: nothing in it trains."""
        return super().train(False)

    def trainable_parameters(self) -> tuple[nn.Parameter, ...]:
        """Nothing."""
        return ()


def geometry_of(model: Any) -> SAMGeometry:
    """That of a model of transformers, see `FAMILIES`; raises `UserError` for another model."""
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in FAMILIES:
        names = ", ".join(dict.fromkeys(family.model for family in FAMILIES.values()))
        raise UserError(f"The SAM proposer runs {names} of transformers, not a {kind!r} model.")
    family = FAMILIES[kind]
    config = model.config.prompt_encoder_config if family.squashes else model.config.vision_config
    return SAMGeometry(family, config.image_size)


class SAMGeometry:
    """How images, points, boxes and masks go in and out of a model; all models see a square.

    Args:
        family: the rules.
        side: of the square, in pixels.
    """

    def __init__(self, family: SAMFamily, side: int | Sequence[int]) -> None:
        self.family = family
        self.side = int(side if isinstance(side, int) else side[0])

    def scaled_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of an image inside the square."""
        if self.family.squashes:
            return self.side, self.side
        scale = self.side / max(size)
        return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))

    def prepared(self, images: Images) -> Tensor:
        """(B, 3, side, side) as the model takes them: resized with antialiasing, normalised, padded with zeros."""
        mean, std = (images.pixels.new_tensor(values).view(3, 1, 1) for values in self.family.normalisation)
        square = images.pixels.new_zeros(len(images.sizes), 3, self.side, self.side)
        for slot, pixels, (height, width) in zip(square, images.pixels, images.sizes, strict=True):
            scaled_height, scaled_width = self.scaled_size((height, width))
            image = pixels[None, :, :height, :width]
            scaled = F.interpolate(image, (scaled_height, scaled_width), mode="bilinear", antialias=True)[0]
            slot[:, :scaled_height, :scaled_width] = (scaled - mean) / std
        return square

    def coordinates(self, points: Tensor, size: tuple[int, int]) -> Tensor:
        """(..., 2) as x, y in pixels of an image of this size -> in pixels of the square."""
        height, width = self.scaled_size(size)
        return points * points.new_tensor([width / size[1], height / size[0]])

    def full_size(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Mask logits (n, h', w') of the decoder -> (n, *size), at the image's size."""
        if not len(logits):
            return logits.new_zeros(0, *size)
        maps = logits[None]
        if not self.family.squashes:
            height, width = self.scaled_size(size)
            maps = F.interpolate(maps, (self.side, self.side), mode="bilinear", align_corners=False)
            maps = maps[..., :height, :width]
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)[0]


def encoded(model: Any, square: Tensor) -> list[dict[str, Any]]:
    """What the decoder wants to know of each image of a batch, as keyword arguments of the model.

    Args:
        square: (B, 3, side, side), see `SAMGeometry.prepared`.
    """
    embeddings = model.get_image_embeddings(square)
    # SAM-HQ's decoder also sees earlier layers of its encoder, as the second of two.
    names = ("image_embeddings", "intermediate_embeddings") if isinstance(embeddings, tuple) else ("image_embeddings",)
    parts = embeddings if isinstance(embeddings, tuple) else (embeddings,)
    return [
        {name: _one(part, slice(index, index + 1)) for name, part in zip(names, parts, strict=True)}
        for index in range(len(square))
    ]


def _one(embeddings: Any, image: slice) -> Any:
    """Of SAM 2 and later there are also two finer maps."""
    return embeddings[image] if isinstance(embeddings, Tensor) else [maps[image] for maps in embeddings]
