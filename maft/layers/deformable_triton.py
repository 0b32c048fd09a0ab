"""Deformable attention as Triton kernels, forward and backward: sampled values stay in registers.

Importing this needs Triton. Its operators take tensors of any device that Triton has a driver for, and CPU tensors in
Triton's interpreter (``TRITON_INTERPRET=1`` while this is imported).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from maft.layers import deformable_bags
from maft.layers.feature_levels import FeatureLevels

log = logging.getLogger(__name__)

# What the kernels read; they compute in float32.
TYPES = (torch.float32, torch.bfloat16, torch.float16)
# Values of a program at a time, over queries and the width of a head.
_TILE = 1024
_failed: set[str] = set()


@triton.jit
def _between(locations, samples, axis, length, exists):
    """Cell before each location along an axis of this length, as a float, and the share of the way to the next."""
    position = tl.load(locations + 2 * samples + axis, mask=exists, other=0.0).to(tl.float32) * length - 0.5
    # Two cells outside the map nothing is read any more. What is not a number stays so.
    position = tl.where(position < -2.0, -2.0, position)
    position = tl.where(position > length + 1.0, length + 1.0, position)
    lower = tl.floor(position)
    return lower, position - lower


@triton.jit
def _cell(column, row, width, height, start, heads, depth, lanes, exists):
    """Where the values of cells (q,) begin in an image's, and which lanes of them (q, d) can be read."""
    inside = exists & (column >= 0.0) & (column < width) & (row >= 0.0) & (row < height)
    token = start + tl.where(inside, row * width + column, 0.0).to(tl.int32)
    return (token.to(tl.int64) * heads * depth)[:, None] + lanes[None, :], inside[:, None] & (lanes < depth)[None, :]


@triton.jit
def _forward_kernel(
    values, extent, starts, locations, weights, output, tokens, queries, heads, depth,
    LEVELS: tl.constexpr, POINTS: tl.constexpr, QUERIES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    exists, lanes = query < queries, tl.arange(0, LANES)
    bags = (image * queries + query) * heads + head
    maps = values + (image * tokens * heads + head) * depth
    total = tl.zeros((QUERIES, LANES), tl.float32)
    for level in range(LEVELS):
        width, height = tl.load(extent + 2 * level), tl.load(extent + 2 * level + 1)
        start = tl.load(starts + level)
        for point in range(POINTS):
            samples = (bags * LEVELS + level) * POINTS + point
            column, x = _between(locations, samples, 0, width, exists)
            row, y = _between(locations, samples, 1, height, exists)
            weight = tl.load(weights + samples, mask=exists, other=0.0).to(tl.float32)
            for corner in tl.static_range(4):
                right, below = corner % 2, corner // 2
                cells, seen = _cell(column + right, row + below, width, height, start, heads, depth, lanes, exists)
                read = tl.load(maps + cells, mask=seen, other=0.0).to(tl.float32)
                share = weight * (x if right else 1.0 - x) * (y if below else 1.0 - y)
                total += share[:, None] * read
    target = output + bags[:, None] * depth + lanes[None, :]
    tl.store(target, total.to(output.dtype.element_ty), mask=exists[:, None] & (lanes < depth)[None, :])


@triton.jit
def _backward_kernel(
    gradient, values, extent, starts, locations, weights, of_values, of_locations, of_weights,
    tokens, queries, heads, depth,
    LEVELS: tl.constexpr, POINTS: tl.constexpr, QUERIES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    exists, lanes = query < queries, tl.arange(0, LANES)
    bags = (image * queries + query) * heads + head
    first = (image * tokens * heads + head) * depth
    wanted = exists[:, None] & (lanes < depth)[None, :]
    arriving = tl.load(gradient + bags[:, None] * depth + lanes[None, :], mask=wanted, other=0.0).to(tl.float32)
    for level in range(LEVELS):
        width, height = tl.load(extent + 2 * level), tl.load(extent + 2 * level + 1)
        start = tl.load(starts + level)
        for point in range(POINTS):
            samples = (bags * LEVELS + level) * POINTS + point
            column, x = _between(locations, samples, 0, width, exists)
            row, y = _between(locations, samples, 1, height, exists)
            weight = tl.load(weights + samples, mask=exists, other=0.0).to(tl.float32)
            of_weight, across, down = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
            for corner in tl.static_range(4):
                right, below = corner % 2, corner // 2
                cells, seen = _cell(column + right, row + below, width, height, start, heads, depth, lanes, exists)
                read = tl.load(values + first + cells, mask=seen, other=0.0).to(tl.float32)
                towards = tl.sum(read * arriving, axis=1)
                along_x = x if right else 1.0 - x
                along_y = y if below else 1.0 - y
                of_weight += towards * along_x * along_y
                across += towards * along_y * (1.0 if right else -1.0)
                down += towards * along_x * (1.0 if below else -1.0)
                share = weight * along_x * along_y
                tl.atomic_add(of_values + first + cells, share[:, None] * arriving, mask=seen)
            tl.store(of_weights + samples, of_weight.to(of_weights.dtype.element_ty), mask=exists)
            kind = of_locations.dtype.element_ty
            tl.store(of_locations + 2 * samples, (weight * across * width).to(kind), mask=exists)
            tl.store(of_locations + 2 * samples + 1, (weight * down * height).to(kind), mask=exists)


def _launched(name: str, kernel: Any, tensors: Sequence[Tensor], values: Tensor, weights: Tensor) -> bool:
    """Runs a kernel over all queries; false, and said once, where it does not compile."""
    (_, tokens, heads, depth), (batch, queries, _, levels, points) = values.shape, weights.shape
    lanes = triton.next_power_of_2(depth)
    block = max(1, _TILE // lanes)
    grid = (triton.cdiv(queries, block), heads, batch)
    sizes = (tokens, queries, heads, depth)

    def launch() -> None:
        with torch.cuda.device_of(values):
            kernel[grid](*tensors, *sizes, LEVELS=levels, POINTS=points, QUERIES=block, LANES=lanes)

    return 0 in grid or _tried(name, launch)


def _tried(name: str, launch: Callable[[], None]) -> bool:
    if name in _failed:
        return False
    try:
        launch()
    # Triton, the compiler it calls and the driver each have their own exceptions.
    except Exception as error:
        _failed.add(name)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.warning(
            "The Triton kernel of deformable attention (%s) does not run here, so the slower plain form does: %s",
            name,
            reason,
        )
        return False
    return True


@torch.library.custom_op("maft::deformable_attention", mutates_args=())
def _attention(
    values: Tensor,
    extent: Tensor,
    start: Tensor,
    locations: Tensor,
    weights: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
) -> Tensor:
    batch, queries, heads = weights.shape[:3]
    output = values.new_empty(batch, queries, heads * values.shape[3])
    tensors = [t.contiguous() for t in (values, extent, start, locations, weights)]
    if _launched("forward", _forward_kernel, [*tensors, output], values, weights):
        return output
    return deformable_bags.forward(values, list(zip(heights, widths)), extent, locations, weights)


@_attention.register_fake
def _(values, extent, start, locations, weights, heights, widths):
    batch, queries, heads = weights.shape[:3]
    return values.new_empty(batch, queries, heads * values.shape[3])


@torch.library.custom_op("maft::deformable_attention_backward", mutates_args=())
def _gradients(
    gradient: Tensor,
    values: Tensor,
    extent: Tensor,
    start: Tensor,
    locations: Tensor,
    weights: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    # Programs add to the same values.
    of_values = torch.zeros_like(values, dtype=torch.float32, memory_format=torch.contiguous_format)
    of_locations, of_weights = (
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (locations, weights)
    )
    tensors = [t.contiguous() for t in (gradient, values, extent, start, locations, weights)]
    if _launched("backward", _backward_kernel, [*tensors, of_values, of_locations, of_weights], values, weights):
        return of_values.to(values.dtype), of_locations, of_weights
    return deformable_bags.backward(gradient, values, extent, locations, weights, heights, widths)


@_gradients.register_fake
def _(gradient, values, extent, start, locations, weights, heights, widths):
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (values, locations, weights))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.heights, ctx.widths = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    of_values, of_locations, of_weights = _gradients(gradient, *ctx.saved_tensors, ctx.heights, ctx.widths)
    return of_values, None, None, of_locations, of_weights, None, None


_attention.register_autograd(_backward, setup_context=_setup)


def fused(values: Tensor, levels: FeatureLevels, locations: Tensor, weights: Tensor) -> Tensor:
    """Deformable attention in one kernel, and its gradients in another; accumulates in float32.

    Args:
        values: (B, S, heads, d), tokens of all levels, one of `TYPES`; any width d.
        levels: geometry of the S tokens.
        locations: (B, Q, heads, L, P, 2) as (x, y) in [0, 1] of each level.
        weights: (B, Q, heads, L, P).

    Returns:
        (B, Q, heads * d) of the values' type. Where a kernel does not compile, the plain form runs, which is said once.
    """
    heights, widths = [height for height, _ in levels.sizes], [width for _, width in levels.sizes]
    return _attention(values, levels.extent, levels.start, locations, weights, heights, widths)
