"""Masked regions of an image: all in one gather, against a loop over proposals."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.inputs import random_mask_logits
from benchmarks.measure import Comparison, Form, compare
from maft.layers.crops import crop_regions, tight_boxes


def crop_one_by_one(
    image: Tensor, masks: Tensor, boxes: Tensor, size: tuple[int, int], *, fill: Tensor, align_corners: bool = False
) -> tuple[Tensor, Tensor]:
    """`maft.layers.crops.crop_regions` by its definition: each region is cut, filled and interpolated by itself."""
    regions, region_masks = [], []
    for mask, (left, top, right, bottom) in zip(masks.float(), boxes.tolist(), strict=True):
        cut, window = image[:, top:bottom, left:right], mask[None, top:bottom, left:right]
        filled = cut * window + (1 - window) * fill[:, None, None]
        regions.append(F.interpolate(filled[None], size, mode="bicubic", align_corners=align_corners))
        region_masks.append(F.interpolate(window[None], size, mode="nearest"))
    return torch.cat(regions), torch.cat(region_masks)


@torch.no_grad()
def run(
    device: torch.device, repeats: int, *, count: int = 100, height: int = 640, width: int = 864, side: int = 224
) -> list[Comparison]:
    """``count`` proposals of a ``height`` x ``width`` image, regions of ``side`` x ``side``."""
    image = torch.randn(3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    masks = random_mask_logits(count, (height, width)).to(device) > 0
    fill = torch.zeros(3, device=device)
    target = (side, side)
    forms = [
        Form("all regions in one gather", lambda: crop_regions(image, masks, tight_boxes(masks), target, fill=fill)),
        Form(
            "loop over regions",
            lambda: crop_one_by_one(image, masks, tight_boxes(masks), target, fill=fill),
            tolerance=1e-4,
        ),
    ]
    return [compare("crops", f"{count} regions of {height}x{width} to {side}x{side}", forms, device, repeats)]
