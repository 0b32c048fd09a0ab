"""Cuts masked regions out of an image and resizes them, all regions of an image at once (OVSeg).

Every region is its mask's bounding box with the pixels outside the mask replaced by a fill colour, resized to a square
without keeping its aspect ratio: the image bicubically (A = -0.75, no antialiasing), the mask by nearest neighbour.
Numbers follow ``torch.nn.functional.interpolate`` applied to each region on its own; nothing loops over regions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Interpolation taps held at once: on a CPU they should stay in the cache, a GPU wants few large kernels.
_CPU_TAPS = 1 << 20
_GPU_TAPS = 1 << 25


def tight_boxes(masks: Tensor) -> Tensor:
    """Bounding boxes of binary masks.

    Args:
        masks: (N, h, w) bool.

    Returns:
        (N, 4) int64 as x0, y0, x1, y1 in pixels, x1 and y1 exclusive; zeros where a mask is empty.
    """
    pixels = masks.contiguous().view(torch.uint8)

    def extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
        length = occupied.shape[1]
        return occupied.argmax(1), length - occupied.flip(1).argmax(1)

    # The maximum over bytes is several times faster than any() on a CPU.
    in_column, in_row = pixels.amax(1), pixels.amax(2)
    left, right = extent(in_column)
    top, bottom = extent(in_row)
    return torch.stack([left, top, right, bottom], dim=1) * in_row.amax(1, keepdim=True)


def expand_boxes(boxes: Tensor, ratio: float, size: tuple[int, int]) -> Tensor:
    """Boxes grown about their centre, cut to whole pixels towards zero and clipped to the image.

    Args:
        boxes: (N, 4) as `tight_boxes` gives them.
        ratio: factor of width and height.
        size: (height, width) of the image.
    """
    edges = boxes.float()
    centre = 0.5 * (edges[:, :2] + edges[:, 2:])
    half = 0.5 * (edges[:, 2:] - edges[:, :2]) * ratio
    height, width = size
    limit = boxes.new_tensor([width, height, width, height])
    return torch.cat([centre - half, centre + half], dim=1).trunc().long().clamp(min=0).minimum(limit)


def boxes_to_last_pixel(masks: Tensor) -> Tensor:
    """ZegFormer's boxes: from the first pixel of a mask to its last one, which as an edge cuts that pixel off.

    Args:
        masks: (N, h, w) bool.

    Returns:
        (N, 4) int64 as x0, y0, x1, y1; the whole of (h, w) where a mask is empty or one pixel wide or high.
    """
    height, width = masks.shape[-2:]
    boxes = tight_boxes(masks)
    first, last = boxes[:, :2], (boxes[:, 2:] - 1).clamp(min=0)
    flat = (last == first).any(1, keepdim=True)
    return torch.where(flat, boxes.new_tensor([0, 0, width, height]), torch.cat([first, last], dim=1))


def first_of_equal(regions: Tensor, region_masks: Tensor) -> Tensor:
    """Which region is the first that is the same as another one, pixel by pixel.

    Only regions with equal sums are compared, so that distinct ones cost a sum each. One that equals a later region of
    its sums but not the first of them is not found.

    Args:
        regions: (n, 3, s, s).
        region_masks: (n, 1, s, s).

    Returns:
        (n,) int64, of a region that is no copy its own position.
    """
    place = torch.arange(len(regions), device=regions.device)
    sums = torch.stack([regions.sum((1, 2, 3)), region_masks.sum((1, 2, 3))], dim=1)
    _, group = sums.unique(dim=0, return_inverse=True)
    first = place.scatter_reduce(0, group, place, "amin", include_self=False)[group]
    (doubted,) = (first != place).nonzero(as_tuple=True)
    its_first = first[doubted]
    same = [(every[doubted] == every[its_first]).flatten(1).all(1) for every in (regions, region_masks)]
    return place.index_put((doubted,), torch.where(same[0] & same[1], its_first, doubted))


def crop_regions_by_definition(
    image: Tensor, masks: Tensor, boxes: Tensor, size: tuple[int, int], *, fill: Tensor, align_corners: bool = False
) -> tuple[Tensor, Tensor]:
    """What `crop_regions` computes, region by region: each is cut, filled and interpolated by itself."""
    regions, region_masks = [], []
    for mask, (left, top, right, bottom) in zip(masks.float(), boxes.tolist(), strict=True):
        cut, window = image[:, top:bottom, left:right], mask[None, top:bottom, left:right]
        filled = cut * window + (1 - window) * fill[:, None, None]
        regions.append(F.interpolate(filled[None], size, mode="bicubic", align_corners=align_corners))
        region_masks.append(F.interpolate(window[None], size, mode="nearest"))
    return torch.cat(regions), torch.cat(region_masks)


def crop_regions(
    image: Tensor,
    masks: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    *,
    fill: Tensor,
    align_corners: bool = False,
    taps_at_once: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Masked regions of one image, resized.

    Args:
        image: (3, h, w) float, normalised or not.
        masks: (N, h, w) bool, or float in [0, 1] to blend image and fill (matting).
        boxes: (N, 4) int64 as x0, y0, x1, y1, none of them empty.
        size: (height, width) of the regions.
        fill: (3,) colour of pixels outside the mask, on the image's scale.
        align_corners: how the image, not the mask, is resized.
        taps_at_once: bound on the working memory beside that of one region, about 30 bytes each.

    Returns:
        regions (N, 3, *size) float and region masks (N, 1, *size) float.
    """
    height, width = size
    left, top, right, bottom = boxes.unbind(1)
    columns, column_weights = _cubic_taps(right - left, width, align_corners)
    rows, row_weights = _cubic_taps(bottom - top, height, align_corners)
    columns = (columns + left[:, None, None]).flatten(1)
    column_weights = column_weights.flatten(1).to(image.dtype)
    # The weights of a pixel add up to one, so the fill can be taken out and put back after resizing.
    table = (image - fill[:, None, None]).flatten(1).T.contiguous()
    values = (masks.contiguous().view(torch.uint8) if masks.dtype == torch.bool else masks).flatten(0, 1)
    first_row = torch.arange(len(boxes), device=boxes.device) * image.shape[1] + top

    # Channels last, as the sums come out.
    regions = image.new_empty(len(boxes), height, width, 3)
    heights = bottom - top
    taps_at_once = taps_at_once or (_CPU_TAPS if image.device.type == "cpu" else _GPU_TAPS)
    # Consecutive boxes whose rows, but for those of one box, are at most so many.
    lines_at_once = max(1, taps_at_once // (4 * width))
    groups = torch.div(heights.cumsum(0) - heights, lines_at_once, rounding_mode="floor")
    stop = 0
    for count in groups.unique_consecutive(return_counts=True)[1].tolist():
        chunk = slice(stop, stop := stop + count)
        tall = heights[chunk]
        # Every source row of every box of the chunk, one after the other.
        start = tall.cumsum(0) - tall
        region = torch.repeat_interleave(torch.arange(len(tall), device=boxes.device), tall)
        line = torch.arange(len(region), device=boxes.device)
        row = line + (top[chunk] - start).index_select(0, region)
        mask_row = line + (first_row[chunk] - start).index_select(0, region)
        taps = columns[chunk].index_select(0, region)
        weights = column_weights[chunk].index_select(0, region)
        weights = weights * values.index_select(0, mask_row).gather(1, taps)
        # Bag by bag, a weighted sum over its four taps: first along every row, then across rows.
        lines = F.embedding_bag(
            (taps + row[:, None] * image.shape[2]).view(-1, 4),
            table,
            mode="sum",
            per_sample_weights=weights.view(-1, 4),
        )
        resized = F.embedding_bag(
            (rows[chunk] + start[:, None, None]).view(-1, 4),
            lines.view(len(region), width * 3),
            mode="sum",
            per_sample_weights=row_weights[chunk].to(image.dtype).reshape(-1, 4),
        )
        regions[chunk] = resized.view(-1, height, width, 3) + fill

    mask_row = first_row[:, None] + _nearest_taps(bottom - top, height)
    column = left[:, None] + _nearest_taps(right - left, width)
    region_masks = values.index_select(0, mask_row.flatten()).view(len(boxes), height, image.shape[2])
    region_masks = region_masks.gather(2, column[:, None, :].expand(-1, height, -1))
    return regions.permute(0, 3, 1, 2), region_masks[:, None].to(image.dtype)


def _cubic_taps(length: Tensor, target: int, align_corners: bool) -> tuple[Tensor, Tensor]:
    """Source positions and weights, each (N, target, 4), of a bicubic resize of ``length`` (N,) pixels."""
    grid = torch.arange(target, device=length.device)
    scale = (length - 1).float() / max(target - 1, 1) if align_corners else length.float() / target
    # torch rounds the product and the subtraction once, together, to float32.
    scale = scale[:, None].double()
    source = (scale * grid if align_corners else scale * (grid + 0.5) - 0.5).float()
    floor = source.floor()
    fraction = (source - floor)[..., None]
    distance = (fraction - torch.arange(-1, 3, device=length.device)).abs()
    a = -0.75
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    position = floor.long()[..., None] + torch.arange(-1, 3, device=length.device)
    return position.clamp(min=0).minimum(length[:, None, None] - 1), torch.where(distance <= 1, near, far)


def _nearest_taps(length: Tensor, target: int) -> Tensor:
    """Source positions of torch's "nearest" (floor) resize: (N, target)."""
    position = (torch.arange(target, device=length.device) * (length.float() / target)[:, None]).floor().long()
    return position.minimum(length[:, None] - 1)
