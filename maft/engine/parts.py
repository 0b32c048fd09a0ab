"""Parts of a model that a training runs in another way than they stand there: compiled, or recomputed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from operator import attrgetter
from types import MethodType
from typing import Any

from detectron2.engine import HookBase
from torch import nn

from maft.errors import UserError
from maft.layers.compiling import compiled, method_of, part_names
from maft.layers.recomputing import recompute_apart, recomputed, recomputed_names


class ReplacedParts(HookBase):
    """Puts another form of submodules and methods of a model in their place.

    Args:
        key: the config key that names them.
        names: of submodules (``proposer.pixel_decoder``) or of methods of one (``classifier.encode_proposals``).
        form: makes the other form of a method.

    Raises:
        UserError: the model has no such part; or, after the first iteration, a part was never called, as happens to a
            module whose owner calls its children one by one.
    """

    def __init__(
        self, model: nn.Module, key: str, names: Sequence[str], form: Callable[[MethodType], Callable[..., Any]]
    ) -> None:
        self.key, self.waiting = key, set(names)
        for name in names:
            method = method_of(model, name, key)
            # A method again, as a part may be replaced twice.
            setattr(method.__self__, method.__name__, MethodType(self._watched(name, form(method)), method.__self__))

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(owner: Any, *arguments: Any, **options: Any) -> Any:
            self.waiting.discard(name)
            return function(*arguments, **options)

        return call

    def after_step(self) -> None:
        if self.waiting:
            raise UserError(
                f"{self.key} names {sorted(self.waiting)[0]!r}, which this model never calls as a whole, so that it "
                "changes nothing: name what calls it, or leave it out."
            )


def compiled_parts(model: nn.Module, names: Sequence[str]) -> ReplacedParts:
    """Parts that ``SOLVER.COMPILE`` names go through torch.compile."""
    return ReplacedParts(model, "SOLVER.COMPILE", part_names(model, names), compiled)


def recomputed_parts(model: nn.Module, names: Sequence[str]) -> ReplacedParts:
    """Parts that ``SOLVER.ACTIVATION_CHECKPOINTING`` names are recomputed in the backward pass."""
    listed = recomputed_names(model, names)
    hook = ReplacedParts(model, "SOLVER.ACTIVATION_CHECKPOINTING", listed, recomputed)
    for name in listed:
        part = attrgetter(name)(model)
        if isinstance(part, nn.Module):
            recompute_apart(part, functools.partial(hook.waiting.discard, name))
    return hook
