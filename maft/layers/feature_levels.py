"""Geometry of feature maps that are flattened and joined along the token axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

# Sizes of images seen last whose geometry is kept: some 100 KiB each.
_KEPT = 32


@dataclass(frozen=True)
class FeatureLevels:
    """Geometry of the L levels that an encoder works on, S tokens in all.

    Attributes:
        sizes: (height, width) of each of the L levels.
        extent: (L, 2) float32, (width, height) of each level.
        start: (L,) int32, index of each level's first token.
        centres: (S, 2) float32, (x, y) of every token's pixel centre in [0, 1].
    """

    sizes: tuple[tuple[int, int], ...]
    extent: Tensor
    start: Tensor
    centres: Tensor

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]], device: torch.device) -> FeatureLevels:
        """Geometry of levels of these sizes, which may be symbolic; nothing is copied from the host."""
        starts = list(accumulate((height * width for height, width in sizes), initial=0))[:-1]
        centres = []
        for height, width in sizes:
            y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
            x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
            centres.append(torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).flatten(0, 1))

        def numbers(values: Sequence[int], dtype: torch.dtype) -> Tensor:
            # Filling does not wait for a GPU as torch.tensor of a list would.
            return torch.stack([torch.full((), value, dtype=dtype, device=device) for value in values])

        extent = numbers([length for height, width in sizes for length in (width, height)], torch.float32)
        return cls(tuple(sizes), extent.view(-1, 2), numbers(starts, torch.int32), torch.cat(centres))

    @classmethod
    def shared(cls, sizes: Sequence[tuple[int, int]], tokens: Tensor) -> FeatureLevels:
        """Geometry of levels of these sizes on the device of ``tokens``, kept for the next image of the same sizes."""
        # What is traced must hold its own tensors: sizes may be symbols, and a fake tensor must not outlive its mode.
        if torch.compiler.is_compiling() or type(tokens) not in (Tensor, torch.nn.Parameter):
            return cls.of(sizes, tokens.device)
        return _kept(tuple(sizes), tokens.device)


@lru_cache(maxsize=_KEPT)
def _kept(sizes: tuple[tuple[int, int], ...], device: torch.device) -> FeatureLevels:
    # A later training step may need what is first asked for in inference mode.
    with torch.inference_mode(False):
        return FeatureLevels.of(sizes, device)
