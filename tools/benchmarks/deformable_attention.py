"""Deformable attention, eager and compiled, against the usual loop over levels with ``grid_sample``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.measure import Comparison, Form, compare
from maft.layers.deformable_attention import deformable_attention, deformable_attention_by_definition
from maft.layers.feature_levels import FeatureLevels


def run(
    device: torch.device,
    repeats: int,
    *,
    sizes: Sequence[tuple[int, int]] = ((20, 20), (40, 40), (80, 80)),
    heads: int = 8,
    width: int = 32,
    points: int = 4,
    compile: bool = True,
) -> list[Comparison]:
    """One encoder layer's attention; default: the three levels of a 640x640 image."""
    draws = torch.Generator().manual_seed(0)
    levels = FeatureLevels.of(sizes, device)
    tokens, count = len(levels.centres), len(sizes)
    values = torch.randn(1, tokens, heads, width, generator=draws).to(device)
    offsets = 3 * torch.randn(1, tokens, heads, count, points, 2, generator=draws).to(device)
    locations = levels.centres[:, None, None, None] + offsets / levels.extent[:, None]
    weights = torch.randn(1, tokens, heads, count * points, generator=draws).softmax(-1)
    weights = weights.view(1, tokens, heads, count, points).to(device)
    inputs = [tensor.requires_grad_() for tensor in (values, locations, weights)]

    def ours() -> Tensor:
        return deformable_attention(inputs[0], levels, *inputs[1:])

    def theirs() -> Tensor:
        return deformable_attention_by_definition(inputs[0], levels, *inputs[1:])

    forms = [("deformable_attention", ours), ("by definition, grid_sample per level", theirs)]
    if compile:
        compiled = torch.compile(ours, fullgraph=True)
        # Each of the two measurements has a graph of its own, made before its clock starts.
        without_gradients(compiled)()
        with_gradients(compiled, inputs)()
        forms.append(("torch.compile", compiled))

    setting = f"{tokens} tokens, {count} levels, {heads} heads, {points} points"
    passes: dict[str, Callable[[Callable[[], Tensor]], Callable[[], Tensor | tuple[Tensor, ...]]]] = {
        "forward": without_gradients,
        "with gradients": lambda form: with_gradients(form, inputs),
    }
    return [
        compare(
            "deformable-attention",
            f"{name}, {setting}",
            [Form(title, wrap(form), 1e-4 if number else None) for number, (title, form) in enumerate(forms)],
            device,
            repeats,
        )
        for name, wrap in passes.items()
    ]


def without_gradients(form: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The form as inference runs it."""
    return torch.no_grad()(form)


def with_gradients(form: Callable[[], Tensor], inputs: Sequence[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """The form and its gradients of all inputs."""
    return lambda: torch.autograd.grad(form().square().sum(), inputs)
