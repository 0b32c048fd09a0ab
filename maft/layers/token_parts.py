"""Work on tokens in parts whose intermediate values stay in a CPU's cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Of 3072 hidden channels, the width of a ViT-B's MLP, that many tokens are 6 MiB in float32.
_TOKENS = 512


def by_parts(function: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """A function that sees every token for itself, such as a feed-forward network with its residual.

    On a CPU, without gradients, it is given few tokens at a time, so that wide layers are not written to memory.

    Args:
        function: (..., n, C) -> (..., n, C') for any n.
        tokens: (..., N, C).

    Returns:
        (..., N, C').
    """
    # A compiler divides the work itself, and of what it traces the number of tokens may be open.
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or tokens.device.type != "cpu":
        return function(tokens)
    if tokens.shape[-2] <= _TOKENS:
        return function(tokens)
    return torch.cat([function(part) for part in tokens.split(_TOKENS, dim=-2)], dim=-2)
