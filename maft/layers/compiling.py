"""Parts of a model by name, for torch.compile and others; and whether torch.export is looking."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from operator import attrgetter
from types import MethodType
from typing import Any

import torch
from torch import nn

from maft.errors import UserError, first_line

log = logging.getLogger(__name__)

# What most of the time is spent in, where a model has it; IP-CLIP's tower is not called as a whole.
SLOW_PARTS = ("proposer.backbone", "proposer.pixel_decoder", "proposer.decoder", "classifier.encode_proposals")


def exporting() -> bool:
    """Whether torch.export traces what runs: its graph must fit every size, and be made of what other runtimes know."""
    # Before PyTorch 2.7 an export cannot be told from other tracing.
    asked = getattr(torch.compiler, "is_exporting", None)
    return asked is not None and asked()


def method_of(model: nn.Module, name: str, key: str = "SOLVER.COMPILE") -> MethodType:
    """The method that a name means: of a submodule (``proposer.pixel_decoder``) its forward.

    A wrapped module would have other parameter names, and ``Module.compile`` cannot tell that it is not called: what
    is compiled or recomputed is a method, put back under its name.

    Args:
        key: the config key that names it.

    Raises:
        UserError: the model has no such part.
    """
    if (method := _found(model, name)) is None:
        raise UserError(f"{key} names {name!r}, which is no submodule or method of the model.")
    return method


def _found(model: nn.Module, name: str) -> MethodType | None:
    try:
        part = attrgetter(name)(model)
    except AttributeError:
        return None
    method = part.forward if isinstance(part, nn.Module) else part
    return method if isinstance(method, MethodType) else None


def part_names(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The parts that a config names; ``all`` stands for those of `SLOW_PARTS` that the model has."""
    slow = [name for name in SLOW_PARTS if _found(model, name) is not None]
    return list(dict.fromkeys(part for name in names for part in (slow if name == "all" else [name])))


def compiled(method: MethodType) -> Callable[..., Any]:
    """A method through torch.compile, or, with a warning, as it is where nothing can be compiled.

    That is known once it is called: a C++ compiler is missing, or Triton, or the GPU is too old for it.
    """
    use: list[Callable[..., Any]] = []
    try:
        use.append(torch.compile(method))
    except RuntimeError as error:
        # So says PyTorch where it knows nothing of this Python yet.
        use.append(_as_it_is(method, error))

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return use[0](*arguments, **options)
        except torch._dynamo.exc.TorchDynamoException as error:
            use[0] = _as_it_is(method, error)
        return method(*arguments, **options)

    return call


def _as_it_is(method: MethodType, error: Exception) -> MethodType:
    owner, cause = type(method.__self__).__name__, getattr(error, "inner_exception", error)
    log.warning("%s cannot be compiled here and runs as it is: %s", owner, first_line(cause))
    return method


def compile_parts(model: nn.Module, names: Sequence[str]) -> None:
    """Sends parts of a model through torch.compile, in place; see `part_names`.

    Raises:
        UserError: the model has no such part.
    """
    for name in part_names(model, names):
        method = method_of(model, name)
        setattr(method.__self__, method.__name__, compiled(method))
