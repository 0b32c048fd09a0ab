"""A proposer that looks at a resized copy of the image at test, as MaskCLIP++ runs FC-CLIP's and MAFT+'s."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.layers.sizes import with_short_side
from maft.structures import Images, Proposals


def resized_copy(images: Images, short_side: int, divisor: int) -> Images:
    """The images with another short side, resized bilinearly and padded to a multiple of ``divisor``."""
    resized = []
    for pixels, (height, width) in zip(images.pixels, images.sizes, strict=True):
        size = with_short_side((height, width), short_side)
        one = pixels[None, :, :height, :width]
        resized.append(F.interpolate(one, size, mode="bilinear", align_corners=False)[0])
    return Images.from_list(resized, divisor)


def of_originals(proposals: Proposals, copy: Images, images: Images) -> Proposals:
    """Proposals of the images, given those of their resized copies.

    Masks become probabilities before they are resized: to the padded copy, whose padding is then cut off. Those of a
    single image keep this size (``own_size``); those of several are resized to their images and padded.
    """
    found: list[Tensor] = []
    for index, size in enumerate(copy.sizes):
        masks = proposals.masks[index : index + 1].float()
        if proposals.are_logits:
            masks = masks.sigmoid()
        masks = F.interpolate(masks, copy.padded_size, mode="bilinear", align_corners=proposals.align_corners)
        found.append(masks[..., : size[0], : size[1]])
    alone = len(found) == 1 and images.padded_size == images.sizes[0]
    own_size = copy.sizes[0] if alone else None
    if not alone:
        height, width = images.padded_size
        for index, size in enumerate(images.sizes):
            one = F.interpolate(found[index], size, mode="bilinear", align_corners=False)
            found[index] = F.pad(one, (0, width - size[1], 0, height - size[0]))
    return replace(
        proposals,
        masks=torch.cat(found),
        padded_size=images.padded_size,
        are_logits=False,
        own_size=own_size,
        clip_features=None,
    )
