"""Parts of a model by name, for torch.compile; and whether torch.export is looking."""

from __future__ import annotations

from operator import attrgetter
from types import MethodType

import torch
from torch import nn

from maft.errors import UserError


def exporting() -> bool:
    """Whether torch.export traces what runs: its graph must fit every size, and be made of what other runtimes know."""
    # Before PyTorch 2.7 an export cannot be told from other tracing.
    asked = getattr(torch.compiler, "is_exporting", None)
    return asked is not None and asked()


def method_of(model: nn.Module, name: str) -> MethodType:
    """The method that a name means: of a submodule (``proposer.pixel_decoder``) its forward.

    A compiled module would have other parameter names, and ``Module.compile`` cannot tell that it is not called: what
    goes through torch.compile is a method, put back under its name.

    Raises:
        UserError: the model has no such part.
    """
    try:
        part = attrgetter(name)(model)
    except AttributeError:
        part = None
    method = part.forward if isinstance(part, nn.Module) else part
    if isinstance(method, MethodType):
        return method
    raise UserError(f"SOLVER.COMPILE names {name!r}, which is no submodule or method of the model.")
