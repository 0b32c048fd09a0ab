"""What losses need to know of the other processes: sums over the global batch; and what all must agree on.

Data-parallel training averages the gradients of the processes. A loss that divides by a count of its own batch
(masks, image-class pairs) therefore weighs a mask by how many others happen to share its process. Dividing by the
count of the global batch, as here, gives the gradient of one process with the whole batch, to float rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

from maft.errors import UserError, shown


def world_size() -> int:
    """Number of processes that train together; 1 outside distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0 to ``world_size() - 1``."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def global_count(count: Tensor | float, device: torch.device | str, minimum: float = 1.0) -> Tensor:
    """Sum of ``count`` over all processes, at least ``minimum``, divided by their number: float32 without gradient.

    Every process must call this the same number of times per step, also when its own count is 0.
    """
    total = torch.as_tensor(count, dtype=torch.float32, device=device).detach().clone()
    processes = world_size()
    if processes > 1:
        dist.all_reduce(total)
    return total.clamp(min=minimum) / processes


def global_mean(total: Tensor, count: Tensor | float, minimum: float = 1.0) -> Tensor:
    """Mean over the global batch of a quantity whose local sum is ``total`` (scalar) over ``count`` local elements.

    The value differs between processes; its average over them, and that of its gradients, is the global mean's.
    Without elements anywhere it is ``total`` itself (an empty sum: zero with a gradient path). Inside gradient
    accumulation the mean is over one micro-batch of all processes.
    """
    return total / global_count(count, total.device, minimum).to(total.dtype)


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes one after the other: (n, D) -> (processes * n, D), n the same in each.

    Gradients flow through this process' own rows alone, times the number of processes: data-parallel training, which
    averages over them, then gives every row the gradient it has in a loss that each process computes whole.
    """
    processes = world_size()
    if processes == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(processes)]
    dist.all_gather(parts, rows.detach().contiguous())
    parts[rank()] = rows.detach() + processes * (rows - rows.detach())
    return torch.cat(parts)


def same_everywhere(values: Mapping[str, Any], advice: str) -> None:
    """Compares named values over all processes, each of which must call this.

    Args:
        advice: what to do when they differ; ends the sentence.

    Raises:
        UserError: in every process, when one differs from process 0.
    """
    first, *others = comm.all_gather(dict(values))
    for number, other in enumerate(others, start=1):
        differing = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if differing:
            name = differing[0]
            more = f" (and {len(differing) - 1} more differ)" if differing[1:] else ""
            raise UserError(
                f"The processes of this run differ: {name} is {shown(first.get(name))} in process 0 and "
                f"{shown(other.get(name))} in process {number}{more}: {advice}."
            )
