"""torch.compile for parts of a model, without a trace in its parameter names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import nn

from maft.errors import UserError


class CompiledParts(HookBase):
    """Sends submodules and methods of a model through torch.compile, in place.

    Args:
        names: of submodules (``proposer.pixel_decoder``) or of methods of one (``classifier.encode_proposals``).

    Raises:
        UserError: the model has no such part; or, after the first iteration, a part was never called, as happens to a
            module whose owner calls its children one by one.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.waiting = set(names)
        for name in names:
            owner, attribute = _find(model, name)
            # A compiled module would have other parameter names, and Module.compile cannot tell that it is not called.
            setattr(owner, attribute, self._watched(name, torch.compile(getattr(owner, attribute))))

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.waiting.discard(name)
            return function(*arguments, **options)

        return call

    def after_step(self) -> None:
        if self.waiting:
            raise UserError(
                f"SOLVER.COMPILE names {sorted(self.waiting)[0]!r}, which this model never calls as a whole, so that "
                "nothing of it was compiled: name what calls it, or leave it out."
            )


def _find(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, method = name.rpartition(".")
    try:
        return model.get_submodule(name), "forward"
    except AttributeError:
        pass
    try:
        parent = model.get_submodule(owner)
        if callable(getattr(parent, method)):
            return parent, method
    except AttributeError:
        pass
    raise UserError(f"SOLVER.COMPILE names {name!r}, which is no submodule or method of the model.")
