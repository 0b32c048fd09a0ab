"""Mask-Adapter's head, against the direct form that repeats the image features for every proposal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.inputs import random_mask_logits
from benchmarks.measure import Comparison, Form, compare
from maft.classifiers.mask_adapter import MaskAdapterHead


@torch.no_grad()
def run(
    device: torch.device,
    repeats: int,
    *,
    counts: Sequence[int] = (100, 250),
    embed_dim: int = 768,
    channels: int = 768,
    grid: tuple[int, int] = (20, 27),
    least_ratio: float | None = 0.9,
) -> list[Comparison]:
    """Default: the published head at ConvNeXt-L's width and the feature map of a 640x864 image.

    ``least_ratio`` is of the released sizes; at small ones the calls alone count.
    """
    draws = torch.Generator().manual_seed(0)
    head = MaskAdapterHead(embed_dim, channels=channels, mask_channels=16, num_maps=16, num_blocks=3).eval().to(device)
    for name, parameter in head.named_parameters():
        # As initialised, a millionth, the blocks would change nothing that could be compared.
        if name.endswith("gamma"):
            parameter.fill_(0.5)
    features = torch.randn(1, embed_dim, *grid, generator=draws).to(device)
    comparisons = []
    for count in counts:
        logits = random_mask_logits(count, (4 * grid[0], 4 * grid[1]))
        masks = (logits > 0).float()[None].to(device)
        forms = [
            Form("image part once, masks in chunks", partial(head, features, masks)),
            Form(
                "image features repeated per proposal", partial(head.by_definition, features, masks), 1e-4, least_ratio
            ),
        ]
        setting = f"{count} proposals, {embed_dim} x {grid[0]}x{grid[1]} features"
        comparisons.append(compare("mask-adapter", setting, forms, device, repeats))
    return comparisons
