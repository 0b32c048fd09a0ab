"""The memory that a computation needs at most, above what was in use before it."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def start_peak(device: torch.device) -> float | None:
    """Memory in use now, in MiB, of a GPU or of this process; the peak is counted from here on.

    None where the platform does not tell.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    # Freed memory that the allocator keeps would be used again without showing.
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        # Linux: 5 resets the process's peak resident set size (man 5 proc).
        _CLEAR.write_text("5")
    except OSError:
        return None
    return _status_mib("VmRSS")


def peak_since(before: float | None, device: torch.device) -> float | None:
    """MiB in use at most since `start_peak`, above what that found."""
    if before is None:
        return None
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else _status_mib("VmHWM")
    return None if peak is None else peak - before


def _status_mib(key: str) -> float | None:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    return None
