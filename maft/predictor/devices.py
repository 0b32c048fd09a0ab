"""Where a predictor computes, and in which precision."""

from __future__ import annotations

import logging
import warnings

import torch
from torch import nn

from maft.errors import UserError, shown
from maft.layers.compiling import method_of

log = logging.getLogger(__name__)

_PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# What most of the time is spent in, where a model has it; IP-CLIP's tower is not called as a whole.
_COMPILED = ("proposer.backbone", "proposer.pixel_decoder", "proposer.decoder", "classifier.encode_proposals")


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


def compile_parts(model: nn.Module, names: tuple[str, ...]) -> None:
    """Sends parts of a model through torch.compile: those named, or by default all that are known to be slow."""
    for name in names or [name for name in _COMPILED if _has(model, name)]:
        method = method_of(model, name)
        setattr(method.__self__, method.__name__, torch.compile(method))


def _has(model: nn.Module, name: str) -> bool:
    try:
        method_of(model, name)
    except UserError:
        return False
    return True
