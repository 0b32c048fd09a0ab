"""Random inputs that benchmarks share: masks like a proposer's, texts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.structures import TextClassifier


def random_mask_logits(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """(count, *size) logits of smooth blobs of many extents, none of them empty; some cover a fifth of the image."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 5, 6, generator=draws)
    heights = F.interpolate(coarse, size, mode="bicubic", align_corners=False)[:, 0]
    return 8 * (heights - (0.8 * heights.amax((1, 2), keepdim=True)).clamp(max=1.2))


def random_texts(classes: int, width: int, seed: int = 0) -> TextClassifier:
    """A text classifier of random rows, without void."""
    draws = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(classes, width, generator=draws), dim=-1)
    return TextClassifier(rows, torch.arange(classes), classes, None, torch.zeros(classes, dtype=torch.bool))
