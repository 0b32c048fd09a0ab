"""The device that a user names, and the way to it."""

from __future__ import annotations

import torch
from torch import Tensor

from maft.errors import UserError, shown


def device_of(device: str | torch.device) -> torch.device:
    """A device that is there.

    Raises:
        UserError: it has another name than cpu, cuda, cuda:0 and so on, or mps; or PyTorch does not see it.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"The device {shown(device)} is none of cpu, cuda, cuda:0 (or another number) and mps.")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UserError(f"The device is {found}, but PyTorch sees {torch.cuda.device_count()} GPUs here: use cpu.")
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("The device is mps, but this PyTorch or computer has none: use cpu.")
    return found


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; a GPU is not waited for, as pageable memory would make the host do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
