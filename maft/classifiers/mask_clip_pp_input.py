"""Images and soft masks at the size at which MaskCLIP++ looks at them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.clip import CLIPEncoder
from maft.layers.sizes import with_short_side
from maft.structures import Images, Proposals

Size = tuple[int, int]


def prepare(images: Images, clip: CLIPEncoder, short_side: int | None, divisor: int) -> tuple[Tensor, list[Size]]:
    """Normalised images, then resized, then padded with zeros.

    Args:
        short_side: of every image; None keeps their sizes.
        divisor: padded sizes are multiples of it.

    Returns:
        (B, 3, H, W) and the sizes of the images without padding.
    """
    sizes = images.sizes if short_side is None else [with_short_side(size, short_side) for size in images.sizes]
    resized = []
    for pixels, old, new in zip(images.pixels, images.sizes, sizes, strict=True):
        one = clip.normalize_pixels(pixels[:, : old[0], : old[1]])
        if new != old:
            one = F.interpolate(one[None], size=new, mode="bilinear", align_corners=False)[0]
        resized.append(one)
    return Images.from_list(resized, divisor).pixels, sizes


def masks_on_grid(proposals: Proposals, images: Images, sizes: Sequence[Size], padded: Size, grid: Size) -> Tensor:
    """Soft masks on the token grid: (B, Q, *grid) float32 in [0, 1].

    Probabilities are resized, not logits: from the proposer's resolution to the padded image (to its own size, where it
    has one) and, without the padding, to the classifier's size; that is padded and resized to the grid. All of this is
    linear and along one axis at a time, so that two matrices do it and no mask is ever made larger.

    Args:
        sizes: of the images for the classifier, without padding.
        padded: (height, width) of its padded batch.
    """
    masks = proposals.masks.float()
    if proposals.are_logits:
        masks = masks.sigmoid()
    spans, before = _spans(proposals, images)
    identities = [torch.eye(side, device=masks.device) for side in masks.shape[-2:]]
    found = []
    for values, old, new in zip(masks, before, sizes, strict=True):
        rows, columns = (
            _resizing(identity, (spans[axis], old[axis], new[axis], padded[axis], grid[axis]), proposals.align_corners)
            for axis, identity in enumerate(identities)
        )
        # Which cells exceed a threshold is decided in full precision.
        with torch.autocast(masks.device.type, enabled=False):
            found.append(rows.T @ values @ columns)
    return torch.stack(found)


def _spans(proposals: Proposals, images: Images) -> tuple[Size, Sequence[Size]]:
    """What size masks are made for, and which part of it each image is."""
    if proposals.own_size is not None:
        return proposals.own_size, [proposals.own_size]
    return proposals.padded_size, images.sizes


def masks_on_grid_by_definition(
    proposals: Proposals, images: Images, sizes: Sequence[Size], padded: Size, grid: Size
) -> Tensor:
    """`masks_on_grid`, one resize after the other."""
    masks = proposals.masks.float()
    masks = masks.sigmoid() if proposals.are_logits else masks
    spans, before = _spans(proposals, images)
    masks = F.interpolate(masks, spans, mode="bilinear", align_corners=proposals.align_corners)
    found = []
    for values, old, new in zip(masks[:, None], before, sizes, strict=True):
        own = F.interpolate(values[..., : old[0], : old[1]], new, mode="bilinear", align_corners=False)
        own = F.pad(own, (0, padded[1] - new[1], 0, padded[0] - new[0]))
        found.append(F.interpolate(own, grid, mode="bilinear", align_corners=False)[0])
    return torch.stack(found)


def _resizing(identity: Tensor, sides: tuple[int, int, int, int, int], align_corners: bool) -> Tensor:
    """What each cell of one axis takes from each row or column of a mask.

    Args:
        identity: (given, given).
        sides: what the masks span, of it the image, the image for the classifier, that with its padding, and the cells.

    Returns:
        (given, cells).
    """
    span, old, new, padded, cells = sides
    matrix = identity[None]
    if span != len(identity):
        matrix = F.interpolate(matrix, size=span, mode="linear", align_corners=align_corners)
    matrix = matrix[..., :old]
    if new != old:
        matrix = F.interpolate(matrix, size=new, mode="linear", align_corners=False)
    matrix = F.pad(matrix, (0, padded - new))
    return F.interpolate(matrix, size=cells, mode="linear", align_corners=False)[0]
