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
    inside = members().double()
    size, most = inside.sum(dim=1).long(), len(STAGES)
    # Of all orders, the share in which exactly the others of a coalition come before a stage.
    shares = [factorial(before) * factorial(most - 1 - before) / factorial(most) for before in range(most)]
    orders = torch.tensor(shares, dtype=torch.float64)
    joined, left = orders[(size - 1).clamp(min=0)], orders[size.clamp(max=most - 1)]
    weights = inside * joined[:, None] - (1 - inside) * left[:, None]
    return torch.tensordot(weights.T.to(values.device), values.double(), dims=1)
