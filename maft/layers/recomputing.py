"""Activation checkpointing of any part of a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from operator import attrgetter
from types import MethodType
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from maft.errors import UserError
from maft.layers.compiling import part_names

_APART = "recomputed_apart"
_Function = TypeVar("_Function", bound=Callable[..., Any])


def recomputed_names(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The parts that a config names, of a ModuleList or Sequential each member: one at a time is then in memory."""
    found: list[str] = []
    for name in part_names(model, names):
        try:
            part = attrgetter(name)(model)
        except AttributeError:
            part = None
        listed = isinstance(part, (nn.ModuleList, nn.Sequential))
        found += [f"{name}.{index}" for index in range(len(part))] if listed else [name]
    return list(dict.fromkeys(found))


def recomputed(method: MethodType) -> Callable[..., Any]:
    """A module's method of which the arguments alone are kept for the backward pass, where it is called once more.

    Gradients are equal, and random numbers drawn anew are the same ones (Chen et al., Training Deep Nets with Sublinear
    Memory Cost, 2016). The call raises UserError where batch norms train, whose running statistics would count every
    image twice.
    """

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        return run_recomputed(cast(nn.Module, method.__self__), method, *arguments, **options)

    return call


def run_recomputed(owner: nn.Module, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """A function of a module, called as `recomputed` says."""
    if not torch.is_grad_enabled():
        return function(*arguments, **options)
    if any(isinstance(one, nn.modules.batchnorm._BatchNorm) and one.training for one in owner.modules()):
        raise UserError(
            f"{type(owner).__name__} holds batch norms that train, whose statistics would count every image twice "
            "if it were recomputed: leave it out of SOLVER.ACTIVATION_CHECKPOINTING."
        )

    # Whose random numbers are kept is told by tensors among the arguments of `checkpoint`.
    def run(_: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return function(*arguments, **options)

    return checkpoint(run, next(owner.parameters(), None), arguments, options, use_reentrant=False)


def recompute_apart(block: nn.Module, told: Callable[[], None]) -> None:
    """Has functions that take a block apart recompute it, and tell when they do; see `takes_apart`."""
    setattr(block, _APART, told)


def takes_apart(function: _Function) -> _Function:
    """For a function that runs the parts of its first argument, a block, which is then never called itself."""

    @functools.wraps(function)
    def call(block: nn.Module, *arguments: Any, **options: Any) -> Any:
        told = getattr(block, _APART, None)
        if told is None:
            return function(block, *arguments, **options)
        told()
        return run_recomputed(block, function, block, *arguments, **options)

    return cast(_Function, call)
