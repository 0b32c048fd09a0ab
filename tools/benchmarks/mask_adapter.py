"""Mask-Adapter's head, against the direct form that repeats the image features for every proposal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.inputs import random_mask_logits
from benchmarks.measure import Comparison, Form, compare
from maft.classifiers.mask_adapter import MaskAdapterHead


def repeated_features(head: MaskAdapterHead, features: Tensor, masks: Tensor) -> Tensor:
    """Mask-Adapter, section 3.2, as written: every mask is embedded to E channels and added to the image features.

    Args:
        head: whose weights are used.
        features: (B, E, h, w).
        masks: (B, N, 4h, 4w) float.

    Returns:
        (B, N, M, h, w) activation maps before the sigmoid.
    """
    batch, count = masks.shape[:2]

    def channels_last(values: Tensor) -> Tensor:
        return values.permute(0, 2, 3, 1)

    embedded = head.mask_conv1(masks.flatten(0, 1)[:, None])
    embedded = F.gelu(head.mask_norm1(channels_last(embedded))).permute(0, 3, 1, 2)
    embedded = F.gelu(head.mask_norm2(channels_last(head.mask_conv2(embedded)))).permute(0, 3, 1, 2)
    repeated = features.repeat_interleave(count, dim=0)
    values = channels_last(head.fuse(repeated + head.mask_projection(embedded)))
    for block in head.blocks:
        values = block(values)
    return head.to_maps(head.norm(values).permute(0, 3, 1, 2)).unflatten(0, (batch, count))


@torch.no_grad()
def run(
    device: torch.device,
    repeats: int,
    *,
    counts: Sequence[int] = (100, 250),
    embed_dim: int = 768,
    channels: int = 768,
    grid: tuple[int, int] = (20, 27),
) -> list[Comparison]:
    """Default: ConvNeXt-L's width and the feature map of a 640x864 image."""
    draws = torch.Generator().manual_seed(0)
    head = MaskAdapterHead(embed_dim, channels=channels).eval().to(device)
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
            Form("image features repeated per proposal", partial(repeated_features, head, features, masks), 1e-4),
        ]
        setting = f"{count} proposals, {embed_dim} x {grid[0]}x{grid[1]} features"
        comparisons.append(compare("mask-adapter", setting, forms, device, repeats))
    return comparisons
