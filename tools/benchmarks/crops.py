"""Masked regions of an image: all in one gather, against a loop over proposals."""

from __future__ import annotations

import torch

from benchmarks.inputs import random_mask_logits
from benchmarks.measure import Comparison, Form, compare
from maft.layers.crops import crop_regions, crop_regions_by_definition, tight_boxes


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
            lambda: crop_regions_by_definition(image, masks, tight_boxes(masks), target, fill=fill),
            tolerance=1e-4,
        ),
    ]
    return [compare("crops", f"{count} regions of {height}x{width} to {side}x{side}", forms, device, repeats)]
