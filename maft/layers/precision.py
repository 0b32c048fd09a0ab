"""In which precision a device can compute, and in which it does."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from maft.errors import UserError, shown

log = logging.getLogger(__name__)

_PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Ampere is the first generation of NVIDIA's with TensorFloat-32.
_AMPERE = 8


def precision_of(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """The type for autocast on a device; None for float32, and, with a warning, where the device cannot compute in it.

    Raises:
        UserError: it is none of float32, float16 and bfloat16.
    """
    wanted = _PRECISIONS.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and wanted not in _PRECISIONS.values():
        raise UserError(f"The precision {shown(dtype)} is none of {', '.join(_PRECISIONS)}: use one.")
    if wanted is None or wanted == torch.float32:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autocast(device.type, wanted):
            able = torch.is_autocast_enabled(device.type)
    if device.type == "cuda" and wanted == torch.bfloat16:
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    if not able:
        log.warning("%s cannot compute in %s here: float32 is used.", device, str(wanted).removeprefix("torch."))
        return None
    return wanted


def has_tf32(device: torch.device) -> bool:
    """Whether a device has TensorFloat-32: NVIDIA's GPUs from Ampere on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= _AMPERE


def uses_tf32(wanted: bool | None, device: torch.device) -> bool:
    """Whether products and convolutions in float32 are to be computed in TensorFloat-32.

    Args:
        wanted: None: wherever the device has it. Where it is wanted and not there, a warning says so.
    """
    there = has_tf32(device)
    if wanted and not there:
        log.warning("%s has no TensorFloat-32 here: float32 is used.", device)
    return there and wanted is not False


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Within it products and convolutions of float32 are computed in TensorFloat-32, or in float32.

    TensorFloat-32 reads 10 of the 23 bits of a mantissa, and adds up in float32. Holds for the whole process.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _set_products("high" if tf32 else "highest", tf32)
    try:
        yield
    finally:
        _set_products(*before)


def _set_products(matrices: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(matrices)
    torch.backends.cudnn.allow_tf32 = convolutions
