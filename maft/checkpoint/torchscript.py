"""Tensors of a TorchScript archive, read as data: OpenAI's CLIP files are such archives.

``torch.jit.load`` runs the archive's own code (``__setstate__``). An archive is a zip file whose ``data.pkl`` holds the
modules' attributes; it is read here with an unpickler that knows plain containers and tensors alone.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._utils import _rebuild_tensor_v2

from maft.errors import UserError

# What PyTorch and pickle raise when the bytes make no sense.
DAMAGE = (RuntimeError, EOFError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, MemoryError)


class _Attributes:
    """Stands for a scripted module: its attributes by name, and nothing of its code."""

    def __setstate__(self, state: Any) -> None:
        self.values = state if isinstance(state, dict) else {}


def _items(values: Any, *_: Any) -> Any:
    return values


# What TorchScript's pickler itself writes for containers; each becomes its first argument.
_CONTAINERS = {"build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag"}
_DTYPES = {
    f"{name}Storage": dtype
    for name, dtype in {
        "Half": torch.float16, "BFloat16": torch.bfloat16, "Float": torch.float32, "Double": torch.float64,
        "Char": torch.int8, "Byte": torch.uint8, "Short": torch.int16, "Int": torch.int32, "Long": torch.int64,
        "Bool": torch.bool,
    }.items()
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: Any) -> None:
        super().__init__(BytesIO(archive.get_record("data.pkl")))
        self._archive = archive

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Attributes
        if module == "torch.jit._pickle" and name in _CONTAINERS:
            return _items
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor_v2
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, _, count = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("it has a tensor of another kind")
        storage = self._archive.get_storage_from_record(f"data/{key}", count * dtype.itemsize, torch.uint8)
        return torch.storage.TypedStorage(wrap_storage=storage.untyped_storage(), dtype=dtype, _internal=True)


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """All tensors of an archive by the names that the scripted module's ``state_dict`` has.

    Raises:
        UserError: the file is no TorchScript archive, is damaged, or refers to anything but containers and tensors.
    """
    try:
        module = _Unpickler(torch._C.PyTorchFileReader(str(path))).load()
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise UserError(
            f"{path} is truncated or not a plain TorchScript archive: download or copy it again."
        ) from error
    if not isinstance(module, _Attributes):
        raise UserError(f"{path} is no TorchScript archive of a module: save the model's state_dict as safetensors.")
    return dict(_tensors(module))


def _tensors(module: _Attributes, prefix: str = "", above: tuple[int, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    if id(module) in above:
        return
    for name, value in getattr(module, "values", {}).items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Attributes):
            yield from _tensors(value, f"{prefix}{name}.", (*above, id(module)))
