"""A GPU that nobody has: models on fake CUDA tensors, and what they would make the host wait for."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision.ops  # noqa: F401 - registers its operations
from detectron2.structures import Instances
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

PACKAGE = Path(__file__).resolve().parents[1] / "maft"
CUDA = torch.device("cuda", 0)
_ATEN = torch.ops.aten
# What a read of one number gives: there is none, and a true flag, a size or an index of one lets the code go on.
_NUMBERS = {bool: True, int: 1, float: 1.0}


class HostReads(TorchDispatchMode):
    """Notes every operation that makes the host wait for the device, and answers it with made-up values.

    These are the reads of a number (`.item()`, `int(...)`, `if tensor:`), copies to the host, and operations whose
    output has a size that the values decide (`nonzero`, boolean indices, `unique`).

    Attributes:
        found: how often, by "file::function" of the nearest caller in the package and the operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answer = _ANSWERS.get(func.overloadpacket)
        if answer is not None:
            waits, values = answer(args, kwargs)
            if waits:
                self.found[caller(), func.overloadpacket.__name__] += 1
            if values is not None:
                return values
        return func(*args, **kwargs)


def caller() -> str:
    """The nearest function of the package that is running."""
    frame = sys._getframe(1)
    while frame is not None:
        if (file := Path(frame.f_code.co_filename)).is_relative_to(PACKAGE):
            return f"{file.relative_to(PACKAGE).as_posix()}::{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "outside the package"


def _on_device(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cuda"


def _number(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    kind = bool if args[0].dtype == torch.bool else float if args[0].is_floating_point() else int
    if not _on_device(args[0]) and getattr(args[0], "constant", None) is not None:
        return False, None
    return _on_device(args[0]), _NUMBERS[kind]


def _equal(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    return _on_device(args[0]), False


def _nonzero(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    count = min(args[0].numel(), 2)
    return _on_device(args[0]), args[0].new_zeros(count, args[0].ndim, dtype=torch.int64)


def _masked_select(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    return _on_device(args[0]), args[0].flatten()[:2].clone()


def _unique(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    values = args[0]
    places = torch.zeros_like(values, dtype=torch.int64)
    return _on_device(values), (values.flatten().clone(), places, places.flatten())


def _unique_rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    values, dim = args[0], args[1]
    places = torch.zeros(values.shape[dim], dtype=torch.int64, device=values.device)
    return _on_device(values), (values.clone(), places, places.clone())


def _boolean_index(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    values, indices = args[0], args[1]
    if not any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices):
        return False, None
    plain: list[Tensor | None] = []
    for index in indices:
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            plain.append(index)
            continue
        # Everything is chosen by a row of flags; of flags in several dimensions, two places.
        count = index.numel() if index.ndim == 1 else min(index.numel(), 2)
        plain += [torch.zeros(count, dtype=torch.int64, device=index.device) for _ in range(index.ndim)]
    return _on_device(values), _ATEN.index.Tensor(values, plain)


def _bincount(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    weights = args[1] if len(args) > 1 else kwargs.get("weights")
    count = args[2] if len(args) > 2 else kwargs.get("minlength", 0)
    return _on_device(args[0]), (args[0] if weights is None else weights).new_zeros(max(count, 1))


def _repeated(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    # Of one tensor, how often each place is repeated: once.
    return (_on_device(args[0]), torch.zeros_like(args[0])) if len(args) == 1 else (False, None)


def _kept_boxes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    # No box is dropped.
    return _on_device(args[0]), torch.arange(len(args[0]), device=args[0].device)


def _pinned(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    # Needs a driver.
    return False, args[0]


def _copy(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    if not _on_device(args[0]) or torch.device(kwargs.get("device") or CUDA).type != "cpu":
        return False, None
    # Real values, which can be read.
    with torch.utils._python_dispatch._disable_current_modes():
        return True, torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)


_ANSWERS: dict[Any, Callable[..., tuple[bool, Any]]] = {
    _ATEN._local_scalar_dense: _number,
    _ATEN.equal: _equal,
    _ATEN.nonzero: _nonzero,
    _ATEN.masked_select: _masked_select,
    _ATEN._unique2: _unique,
    _ATEN.unique_consecutive: _unique,
    _ATEN.unique_dim: _unique_rows,
    _ATEN.index: _boolean_index,
    _ATEN.bincount: _bincount,
    _ATEN.repeat_interleave: _repeated,
    torch.ops.torchvision.nms: _kept_boxes,
    _ATEN._pin_memory: _pinned,
    _ATEN._to_copy: _copy,
}


class FakeDevice:
    """A GPU without values: sizes, types and devices of tensors are computed, and nothing else."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)

    @contextmanager
    def noting(self) -> Iterator[HostReads]:
        """Within it every new tensor is fake; gives what waits for the device."""
        with self.mode, HostReads() as reads:
            yield reads

    def moved(self, value: Any) -> Any:
        """A tensor, a container of some, or a module with all that it holds, there."""
        with self.mode:
            return self._moved(value)

    def _moved(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=CUDA)
        if isinstance(value, nn.Module):
            for module in value.modules():
                _replace(module._parameters, lambda own: nn.Parameter(self._moved(own), own.requires_grad))
                _replace(module._buffers, self._moved)
            return value
        if isinstance(value, Instances):
            return Instances(value.image_size, **{name: self._moved(own) for name, own in value.get_fields().items()})
        if isinstance(value, dict):
            return {key: self._moved(own) for key, own in value.items()}
        return [self._moved(own) for own in value] if isinstance(value, list) else value


def _replace(tensors: dict[str, Any], move: Callable[[Any], Any]) -> None:
    tensors.update({name: move(own) for name, own in tensors.items() if own is not None})
