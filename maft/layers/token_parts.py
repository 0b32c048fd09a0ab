"""Work on tokens in parts whose intermediate values stay in a CPU's cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Of 1024 hidden channels, that many tokens are 4 MiB in float32.
_TOKENS = 1024


def by_parts(function: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """A function that sees every token for itself, such as a feed-forward network with its residual.

    On a CPU, without gradients, it is given few tokens at a time, so that wide layers are not written to memory.

    Args:
        function: (B, n, C) -> (B, n, C') for any n.
        tokens: (B, N, C).

    Returns:
        (B, N, C').
    """
    # A compiler divides the work itself, and of what it traces the number of tokens may be open.
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or tokens.device.type != "cpu":
        return function(tokens)
    return torch.cat([function(part) for part in tokens.split(_TOKENS, dim=1)], dim=1)
