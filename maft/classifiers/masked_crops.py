"""Masked crops, OVSeg's mask classifier (Liang et al., CVPR 2023): CLIP sees every region by itself."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from maft.clip import CLIPEncoder
from maft.clip.mask_prompts import MaskPrompts
from maft.clip.towers import ImageTower, image_tower
from maft.errors import UserError
from maft.interfaces import BuildContext, MaskClassifier
from maft.layers.crops import crop_regions, expand_boxes, first_of_equal, tight_boxes
from maft.options import NonNegative, Positive, Side
from maft.registry import CLASSIFIERS
from maft.structures import Classification, EmbeddedMasks, Images, Proposals, TextClassifier

_NODE = "MODEL.CLASSIFIER.MaskedCrops"


@CLASSIFIERS.register()
class MaskedCrops(MaskClassifier):
    """Cuts every proposal out of the image, fills its background and embeds it with CLIP's image tower.

    With x the image, m the mask's probabilities, b = [m > mask_threshold] and f the fill colour, what CLIP sees of a
    proposal is resize(crop(b x + (1 - b) f, box of b)); with matting m takes the place of b in the sum. Also the
    classifier of ZSSeg (defaults, without prompts) and FreeSeg (``resize_align_corners``).

    Args:
        clip: the shared CLIP, whose image tower is copied when it trains, and run itself otherwise.
        input_size: side of the square that regions are resized to; None: CLIP's own.
        mask_threshold: a pixel belongs to a proposal when its probability is above this; a proposal without a pixel is
            not classified.
        expand_ratio: growth of the bounding box about its centre; below 1 it would cut its mask.
        fill: colour outside the mask: mean (CLIP's pixel mean) or zero (black).
        matting: blend image and fill by the mask's probability instead of cutting at the threshold.
        mask_prompt_depth: how often blank patches are replaced by learned prompts (OVSeg's mask prompts); 0 for none.
        resize_align_corners: bicubic rule of the regions; True in FreeSeg's release.
        crops_per_chunk: regions that CLIP sees at once, a bound on memory.
        train: none, prompts, tower (the image tower) or all (both).

    Raises:
        UserError: prompts shall train and there are none, or the tower cannot have any.
    """

    def __init__(
        self,
        clip: CLIPEncoder,
        *,
        input_size: Side | None = None,
        mask_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        expand_ratio: Annotated[float, Field(ge=1, le=100)] = 1.0,
        fill: Literal["mean", "zero"] = "mean",
        matting: bool = False,
        mask_prompt_depth: NonNegative = 0,
        resize_align_corners: bool = False,
        crops_per_chunk: Positive = 64,
        train: Literal["none", "prompts", "tower", "all"] = "none",
    ) -> None:
        super().__init__()
        if mask_prompt_depth == 0 and train in ("prompts", "all"):
            raise UserError(f"{_NODE} has MASK_PROMPT_DEPTH 0 and yet trains prompts: set it to their depth.")
        self.input_size = clip.image_size[0] if input_size is None else input_size
        if self.input_size < clip.tower.stride:
            raise UserError(
                f"{_NODE}.INPUT_SIZE is {input_size}, less than one patch of {clip.name}, {clip.tower.stride}."
            )
        self.visual: nn.Module | None = None
        self.tower: ImageTower | None = None
        if train in ("tower", "all"):
            self.visual = deepcopy(clip.visual)
            self.tower = image_tower(self.visual, clip.name)
        self.mask_prompts: MaskPrompts | None = None
        if mask_prompt_depth:
            self.mask_prompts = MaskPrompts(clip.tower, mask_prompt_depth, (self.input_size, self.input_size))
        self.mask_threshold, self.expand_ratio, self.fill, self.matting = mask_threshold, expand_ratio, fill, matting
        self.resize_align_corners, self.crops_per_chunk, self.rule = resize_align_corners, crops_per_chunk, train
        # Prompts start from random numbers, a tower as CLIP's.
        self.starts_from_clip = self.mask_prompts is None

    @classmethod
    def from_options(cls, context: BuildContext, **options: Any) -> Any:
        return cls(context.clip, **options)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """What the training rule fine-tunes."""
        if self.mask_prompts is not None and self.rule in ("prompts", "all"):
            yield from self.mask_prompts.parameters()
        if self.visual is not None and self.rule in ("tower", "all"):
            yield from self.visual.parameters()

    def embed(self, images: Images, proposals: Proposals, clip: CLIPEncoder) -> EmbeddedMasks:
        """Embeddings (B, Q, D) of the regions; a proposal without a pixel is not valid and its embedding is zero."""
        crops = [self.regions(images, proposals, index, clip) for index in range(len(images.sizes))]
        valid = torch.stack([one for _, _, one in crops])
        found = self.encode_regions(torch.cat([r for r, _, _ in crops]), torch.cat([m for _, m, _ in crops]), clip)
        embeddings = found.new_zeros(*valid.shape, found.shape[-1])
        return EmbeddedMasks(embeddings.index_put((valid,), found), valid)

    def compare(self, embedded: EmbeddedMasks, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Logits (B, Q, C), or (B, Q, C + 1) with void last."""
        logits = text.logits(embedded.embeddings)
        return Classification(logits, embedded.embeddings, embedded.valid, has_void=text.void is not None)

    def regions(
        self, images: Images, proposals: Proposals, index: int, clip: CLIPEncoder
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The masked regions of one image.

        Returns:
            normalised regions (n, 3, s, s), region masks (n, 1, s, s) and valid (Q,) bool, n of them True.
        """
        height, width = images.sizes[index]
        masks = proposals.image(index).probabilities(proposals.padded_size)[0, :, :height, :width]
        binary = masks > self.mask_threshold
        if proposals.valid is not None:
            binary = binary & proposals.valid[index, :, None, None]
        boxes = tight_boxes(binary)
        valid = boxes[:, 2] > 0
        binary, boxes = binary[valid], boxes[valid]
        pixels = images.pixels[index, :, :height, :width]
        normalized = (pixels - clip.pixel_mean[:, None, None]) / clip.pixel_std[:, None, None]
        background = torch.zeros_like(clip.pixel_mean) if self.fill == "mean" else -clip.pixel_mean / clip.pixel_std
        regions, region_masks = crop_regions(
            normalized,
            masks[valid].to(normalized.dtype) if self.matting else binary,
            expand_boxes(boxes, self.expand_ratio, (height, width)),
            (self.input_size, self.input_size),
            fill=background,
            align_corners=self.resize_align_corners,
        )
        return regions, region_masks, valid

    def encode_regions(self, regions: Tensor, region_masks: Tensor, clip: CLIPEncoder) -> Tensor:
        """Embeds masked regions, with mask prompts when there are some; CLIP sees equal ones once.

        Args:
            regions: (n, 3, s, s) normalised, n may be 0.
            region_masks: (n, 1, s, s), above 0 where a pixel belongs to the region.

        Returns:
            (n, D), not normalised.
        """
        if not len(regions):
            return regions.new_zeros(0, clip.embed_dim)
        first = first_of_equal(regions, region_masks)
        shown, place = first.unique(return_inverse=True)
        if len(shown) < len(regions):
            return self._encode_distinct(regions[shown], region_masks[shown], clip)[place]
        return self._encode_distinct(regions, region_masks, clip)

    def _encode_distinct(self, regions: Tensor, region_masks: Tensor, clip: CLIPEncoder) -> Tensor:
        chunks = zip(regions.split(self.crops_per_chunk), region_masks.split(self.crops_per_chunk))
        tower = clip.tower if self.tower is None else self.tower
        if self.mask_prompts is None:
            return torch.cat([tower.encode(pixels) for pixels, _ in chunks])
        return torch.cat([self.mask_prompts(tower, *chunk) for chunk in chunks])

    def encode_image(self, images: Images, clip: CLIPEncoder, *, teacher: bool = False) -> Tensor:
        """The tower on whole images squashed to a square, as self-distillation compares it: (B, D), not normalised.

        Raises:
            UserError: no tower is fine-tuned.
        """
        if self.tower is None:
            raise UserError(f"SelfDistillationLoss needs {_NODE}.TRAIN tower or all: no image tower is fine-tuned now.")
        square, corners = (self.input_size, self.input_size), self.resize_align_corners
        pixels = F.interpolate(clip.normalize(images), square, mode="bicubic", align_corners=corners)
        return (clip.tower if teacher else self.tower).encode(pixels)
