"""Images and soft masks at the size at which MaskCLIP++ looks at them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.clip import CLIPEncoder
from maft.structures import Images, Proposals

Size = tuple[int, int]


def input_size(size: Size, short_side: int | None) -> Size:
    """(height, width) of an image whose short side becomes ``short_side``, the other one cut to a whole number."""
    if short_side is None:
        return size
    short = min(size)
    return int(size[0] * short_side / short), int(size[1] * short_side / short)


def prepare(images: Images, clip: CLIPEncoder, short_side: int | None, divisor: int) -> tuple[Tensor, list[Size]]:
    """Normalised images, then resized, then padded with zeros.

    Args:
        short_side: of every image; None keeps their sizes.
        divisor: padded sizes are multiples of it.

    Returns:
        (B, 3, H, W) and the sizes of the images without padding.
    """
    sizes = [input_size(size, short_side) for size in images.sizes]
    resized = []
    for pixels, old, new in zip(images.pixels, images.sizes, sizes, strict=True):
        one = clip.normalize_pixels(pixels[:, : old[0], : old[1]])
        if new != old:
            one = F.interpolate(one[None], size=new, mode="bilinear", align_corners=False)[0]
        resized.append(one)
    return Images.from_list(resized, divisor).pixels, sizes


def masks_on_grid(proposals: Proposals, images: Images, sizes: Sequence[Size], padded: Size, grid: Size) -> Tensor:
    """Soft masks on the token grid: (B, Q, *grid) float32 in [0, 1].

    Probabilities are resized, not logits: from the proposer's resolution to the padded image and, without its padding,
    to the classifier's size; that is padded and resized to the grid. All of this is linear and along one axis at a
    time, so that two matrices do it and no mask is ever made larger.

    Args:
        sizes: of the images for the classifier, without padding.
        padded: (height, width) of its padded batch.
    """
    masks = proposals.masks.float()
    if proposals.are_logits:
        masks = masks.sigmoid()
    found = []
    for values, old, new in zip(masks, images.sizes, sizes, strict=True):
        rows, columns = (
            _resizing(values.shape[1 + axis], proposals, axis, old[axis], new[axis], padded[axis], grid[axis], masks)
            for axis in (0, 1)
        )
        found.append(rows.T @ values @ columns)
    return torch.stack(found)


def masks_on_grid_by_definition(
    proposals: Proposals, images: Images, sizes: Sequence[Size], padded: Size, grid: Size
) -> Tensor:
    """`masks_on_grid`, one resize after the other."""
    masks = proposals.masks.float()
    masks = masks.sigmoid() if proposals.are_logits else masks
    masks = F.interpolate(masks, proposals.padded_size, mode="bilinear", align_corners=proposals.align_corners)
    found = []
    for values, old, new in zip(masks[:, None], images.sizes, sizes, strict=True):
        own = F.interpolate(values[..., : old[0], : old[1]], new, mode="bilinear", align_corners=False)
        own = F.pad(own, (0, padded[1] - new[1], 0, padded[0] - new[0]))
        found.append(F.interpolate(own, grid, mode="bilinear", align_corners=False)[0])
    return torch.stack(found)


def _resizing(
    given: int, proposals: Proposals, axis: int, old: int, new: int, padded: int, cells: int, like: Tensor
) -> Tensor:
    """(given, cells): what each cell of one axis takes from each row or column of a mask."""
    matrix = torch.eye(given, device=like.device, dtype=like.dtype)[None]
    span = proposals.padded_size[axis]
    if span != given:
        matrix = F.interpolate(matrix, size=span, mode="linear", align_corners=proposals.align_corners)
    matrix = matrix[..., :old]
    if new != old:
        matrix = F.interpolate(matrix, size=new, mode="linear", align_corners=False)
    matrix = F.pad(matrix, (0, padded - new))
    return F.interpolate(matrix, size=cells, mode="linear", align_corners=False)[0]
