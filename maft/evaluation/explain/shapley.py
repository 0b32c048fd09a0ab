"""Shares of a sum among players that act together (Shapley, "A value for n-person games", 1953)."""

from __future__ import annotations

from math import factorial

import torch
from torch import Tensor

# In the order in which a model does them; bit i of a coalition says whether ground truth stands in for stage i.
STAGES = ("masks", "names", "ensemble", "fusion", "void")
COALITIONS = 2 ** len(STAGES)


def members() -> Tensor:
    """(32, 5) bool: which stages each coalition holds."""
    return (torch.arange(COALITIONS)[:, None] >> torch.arange(len(STAGES))) % 2 == 1


def shapley(values: Tensor) -> Tensor:
    """What each stage adds to the value of a coalition that it joins, the mean over all orders of joining.

    The five sum to the value of all stages without that of none, a stage that never changes a value has 0, and two
    that change all values alike have the same.

    Args:
        values: (32, ...) of the coalitions; that with stage i of `STAGES` has bit i set.

    Returns:
        (5, ...) float64.
    """
    inside, most = members(), len(STAGES)
    # Of all orders, the share in which exactly the members of a coalition come before a stage.
    shares = [factorial(before) * factorial(most - 1 - before) / factorial(most) for before in range(most)]
    coalitions, parts = torch.arange(COALITIONS), []
    for stage in range(most):
        without = coalitions[~inside[:, stage]]
        weights = torch.tensor(shares, dtype=torch.float64)[inside[without].sum(dim=1)].to(values.device)
        # Where a stage changes nothing, its part is zero to the last bit.
        gains = values[without + 2**stage].double() - values[without].double()
        parts.append(torch.tensordot(weights, gains, dims=1))
    return torch.stack(parts)
