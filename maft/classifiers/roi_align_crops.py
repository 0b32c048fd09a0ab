"""ZegFormer's mask classifier (Ding et al., CVPR 2022): CLIP sees every mask's box, pooled by RoIAlign."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from maft.clip import CLIPEncoder
from maft.interfaces import BuildContext, MaskClassifier
from maft.layers.crops import boxes_to_last_pixel
from maft.options import Positive
from maft.registry import CLASSIFIERS
from maft.structures import Classification, EmbeddedMasks, Images, Proposals, TextClassifier


@CLASSIFIERS.register()
class RoIAlignCrops(MaskClassifier):
    """Crops the boxes of masks out of the normalised, padded image by RoIAlign and embeds them with frozen CLIP.

    A pixel belongs to a mask when its probability at the padded size is above one half; padding may belong to one.
    Nothing is trained, and every mask is classified: an empty one as a blank image. The release's CLIP runs in half
    precision on a GPU, in steps of 1/64 of a logit; here it does so under autocast alone.

    Args:
        size: (height, width) of the crops, CLIP's own.
        style: what CLIP sees: cropmask, the box with zeros (CLIP's mean colour) outside the mask; crop, the box with
            all that is in it; mask, the whole image with zeros outside the mask.
        crops_per_chunk: masks that are cut out and seen by CLIP at once, a bound on memory.
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        style: Literal["cropmask", "crop", "mask"] = "cropmask",
        crops_per_chunk: Positive = 32,
    ) -> None:
        super().__init__()
        self.size, self.style, self.crops_per_chunk = size, style, crops_per_chunk

    @classmethod
    def from_options(cls, context: BuildContext, **options: Any) -> Any:
        return cls(context.clip.image_size, **options)

    def embed(self, images: Images, proposals: Proposals, clip: CLIPEncoder) -> EmbeddedMasks:
        """Embeddings (B, Q, D) of the crops."""
        pixels = clip.normalize(images)
        empty = pixels.new_zeros(0, clip.embed_dim)
        embeddings = torch.stack(
            [
                torch.cat([empty, *map(clip.tower.encode, self.crops(image, proposals.image(index)))])
                for index, image in enumerate(pixels)
            ]
        )
        return EmbeddedMasks(embeddings, proposals.valid)

    def compare(self, embedded: EmbeddedMasks, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Logits (B, Q, C), or (B, Q, C + 1) with void last, at CLIP's own temperature."""
        logits = text.logits(embedded.embeddings, clip.temperature)
        return Classification(logits, embedded.embeddings, embedded.valid, has_void=text.void is not None)

    def crops(self, pixels: Tensor, proposals: Proposals) -> Iterator[Tensor]:
        """What CLIP sees of the masks of one image, chunk after chunk.

        Args:
            pixels: (3, H, W) normalised, zero in the padding.
            proposals: a batch of one.

        Yields:
            (n, 3, *size), Q in all.
        """
        if self.style == "mask":
            # As released, resized once more after the padded size.
            padded = replace(proposals, masks=proposals.resized(proposals.padded_size))
            image = F.interpolate(pixels[None], self.size, mode="bilinear", align_corners=False)
            for masks in self._chunks(padded.probabilities(self.size)[0] > 0.5):
                yield image * masks[:, None]
            return
        masks = proposals.probabilities(proposals.padded_size)[0] > 0.5
        boxes = boxes_to_last_pixel(masks).to(pixels.dtype)
        for inside, edges in zip(self._chunks(masks), self._chunks(boxes), strict=True):
            if self.style == "crop":
                yield roi_align(pixels[None], [edges], self.size, aligned=True)
            else:
                yield roi_align(pixels * inside[:, None], list(edges[:, None]), self.size, aligned=True)

    def _chunks(self, values: Tensor) -> tuple[Tensor, ...]:
        return values.split(self.crops_per_chunk) if len(values) else ()
