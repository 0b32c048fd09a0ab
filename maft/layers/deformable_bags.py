"""Deformable attention as weighted bags of table rows, in PyTorch's own operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows read at a time: few, so that what is computed of them stays in a CPU's cache; a GPU wants work for all its cores.
_ROWS_ON_CPU, _ROWS = 1 << 19, 1 << 23
_CORNERS = 4

Sizes = Sequence[tuple[int, int]]


class _Grid(NamedTuple):
    """Where the maps of all levels lie in a table whose rows are cells; n = heads * L * P samples of a query.

    Maps have a border of zeros: a row above, two below, and a column on the left that is also right of the row before.

    Attributes:
        extent: (2, n), width and height of each sample's map.
        stride: (n,) int32, from one row of each sample's map to the next.
        origin: (B, 1, n) int32, where the first cell of each sample's map lies.
    """

    extent: Tensor
    stride: Tensor
    origin: Tensor

    @classmethod
    def of(cls, sizes: Sizes, extent: Tensor, weights: Tensor) -> _Grid:
        """Grid for weights (B, Q, heads, L, P) on levels of these sizes, whose (L, 2) extent is on their device."""
        (batch, _, heads, _, points), device = weights.shape, weights.device
        lengths = [_bordered(height, width) for height, width in sizes]
        starts = [torch.full((points,), start, device=device) for start in accumulate(lengths[:-1], initial=0)]
        tables = torch.arange(batch * heads, device=device) * sum(lengths)
        extent = extent.repeat_interleave(points, dim=0).repeat(heads, 1).T.contiguous()
        stride = extent[0].int() + 1
        origin = (tables[:, None] + torch.cat(starts)).view(batch, 1, -1) + stride + 1
        return cls(extent, stride, origin.int())


def _bordered(height: int, width: int) -> int:
    """Rows of the table that a map takes up: a coordinate in the border reads two columns on and a row below."""
    return (height + 3) * (width + 1) + 2


def _maps(table: Tensor, tokens: Tensor, sizes: Sizes) -> Iterator[tuple[Tensor, Tensor]]:
    """Each level's map (B, heads, h, w, d) in a table (B, heads, rows, d) and in tokens (B, S, heads, d)."""
    regions = table.split([_bordered(height, width) for height, width in sizes], dim=2)
    parts = tokens.split([height * width for height, width in sizes], dim=1)
    for region, part, (height, width) in zip(regions, parts, sizes):
        cells = region[:, :, :-2].unflatten(2, (height + 3, width + 1))
        yield cells[:, :, 1 : height + 1, 1:], part.transpose(1, 2).unflatten(2, (height, width))


def _table(values: Tensor, sizes: Sizes) -> Tensor:
    """Values (B, S, heads, d) with their borders: (B, heads, rows, d)."""
    batch, _, heads, width = values.shape
    table = values.new_zeros(batch, heads, sum(_bordered(*size) for size in sizes), width)
    for cells, part in _maps(table, values, sizes):
        cells.copy_(part)
    return table


class _Samples(NamedTuple):
    """Samples of some queries, one bag of L * P a query and head.

    Attributes:
        x, y: (bags, L * P), share of the way from one cell to the next.
        column, row: (bags, L * P), coordinates in cells, wherever they are.
        rows: (bags, 4, L * P) int32, upper left, upper right, lower left and lower right cell in the table.
    """

    x: Tensor
    y: Tensor
    column: Tensor
    row: Tensor
    rows: Tensor

    @classmethod
    def at(cls, locations: Tensor, grid: _Grid) -> _Samples:
        """Samples at locations (B, Q, heads, L, P, 2) in [0, 1]."""
        points = locations.shape[3] * locations.shape[4]
        # Coordinates in cells, where integers are cell centres (align_corners=False).
        across, down = locations.flatten(2, 4).unbind(-1)
        column, row = across * grid.extent[0] - 0.5, down * grid.extent[1] - 0.5
        left, x = _cell_before(column, grid.extent[0])
        above, y = _cell_before(row, grid.extent[1])
        upper = above * grid.stride + left + grid.origin
        lower = upper + grid.stride
        rows = _interleaved([cell.view(-1, points) for cell in (upper, upper + 1, lower, lower + 1)], upper.dtype)
        x, y, column, row = (part.view(-1, points) for part in (x, y, column, row))
        return cls(x, y, column, row, rows)

    def shares(self, weights: Tensor, dtype: torch.dtype) -> Tensor:
        """Weights (bags, L * P) distributed over the four cells: (bags, 4, L * P)."""
        lower = weights * self.y
        upper = weights - lower
        lower_right, upper_right = lower * self.x, upper * self.x
        cells = (upper - upper_right, upper_right, lower - lower_right, lower_right)
        return _interleaved(cells, dtype)


def _cell_before(coordinate: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Cell before a coordinate (int32), in the border if it is outside, and the share of the way to the next."""
    moved = coordinate.clamp(min=-1).minimum(length)
    lower = moved.floor()
    # What is not a number must read some row of the table: its share then makes the result not a number.
    return lower.int().clamp_(min=-1), moved - lower


def _interleaved(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Stacks (bags, n) tensors along a new second dimension."""
    if torch.compiler.is_compiling():
        return torch.stack(list(parts), dim=1).to(dtype)
    # torch.stack writes pieces as short as n one by one on a CPU.
    stacked = parts[0].new_empty(len(parts[0]), len(parts), parts[0].shape[1], dtype=dtype)
    for number, part in enumerate(parts):
        stacked[:, number] = part
    return stacked


def _bags(table: Tensor, grid: _Grid, locations: Tensor, weights: Tensor) -> Tensor:
    """Sums of table rows (B, heads, rows, d) for queries (B, Q, heads, L, P): (B, Q, heads * d)."""
    samples = _Samples.at(locations, grid)
    shares = samples.shares(weights.flatten(0, 2).flatten(1), table.dtype)
    rows = samples.rows.flatten(1)
    summed = F.embedding_bag(rows, table.flatten(0, 2), mode="sum", per_sample_weights=shares.flatten(1))
    return summed.view(*weights.shape[:2], -1)


def _parts(weights: Tensor) -> int:
    """Queries that are computed at a time, of weights (B, Q, heads, L, P)."""
    rows = _ROWS_ON_CPU if weights.device.type == "cpu" else _ROWS
    return max(1, rows // (_CORNERS * weights.shape[2:].numel()))


def forward(values: Tensor, sizes: Sizes, extent: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """What `weighted_bags` returns, without gradients."""
    if torch.compiler.is_compiling():
        # A compiler keeps what lies between in registers, and one graph fits any number of queries.
        return _bags(_table(values, sizes), _Grid.of(sizes, extent, weights), locations, weights)
    step, grid = _parts(weights), _Grid.of(sizes, extent, weights[:1])
    batch, queries, heads = weights.shape[:3]
    output = values.new_empty(batch, queries, heads * values.shape[3])
    for image in range(batch):
        one = slice(image, image + 1)
        table = _table(values[one], sizes)
        for start in range(0, queries, step):
            part = (one, slice(start, start + step))
            output[part] = _bags(table, grid, locations[part], weights[part])
    return output


def _transposed(rows: Tensor, shares: Tensor, gradient: Tensor, length: int) -> Tensor:
    """Sums for every row of the table, what embedding_bag does the other way round.

    Args:
        rows, shares: (bags, K), what each bag reads.
        gradient: (bags, d) of the bags.
        length: rows of the table.

    Returns:
        (length, d).
    """
    ordered, order = rows.flatten().sort()
    ends = torch.searchsorted(ordered, torch.arange(length + 1, dtype=torch.int32, device=rows.device), out_int32=True)
    bags = (order // rows.shape[1]).int()
    return F.embedding_bag(
        bags, gradient, ends, mode="sum", per_sample_weights=shares.flatten()[order], include_last_offset=True
    )


def _gradients(
    gradient: Tensor, table: Tensor, grid: _Grid, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of some queries of one image, for the table (1, heads, rows, d), locations and weights."""
    samples, rows = _Samples.at(locations, grid), table.flatten(0, 2)
    of_bags, flat = gradient.reshape(-1, rows.shape[1]), weights.flatten(0, 2).flatten(1)
    shares = samples.shares(flat, table.dtype).flatten(1)
    read = samples.rows.flatten(1)
    of_table = _transposed(read, shares, of_bags, len(rows)).view_as(table)
    of_shares = (of_bags[:, None] @ F.embedding(read, rows).mT).to(flat.dtype)
    upper_left, upper_right, lower_left, lower_right = of_shares.view_as(samples.rows).unbind(1)
    upper, lower = upper_left.lerp(upper_right, samples.x), lower_left.lerp(lower_right, samples.x)
    across = (upper_right - upper_left).lerp(lower_right - lower_left, samples.y)
    per_head = grid.extent.view(2, 1, -1, flat.shape[1])
    of_cells = (flat * across, flat * (lower - upper))
    of_locations = locations.new_empty(*samples.rows[:, 0].shape, 2)
    for axis, coordinate in enumerate((samples.column, samples.row)):
        length, bags = per_head[axis], (-1, *per_head.shape[2:])
        # What was moved into the border would stay there.
        moves = _is_near(coordinate.view(bags), length)
        of_locations[..., axis] = (of_cells[axis].view(bags) * moves * length).flatten(0, 1)
    return of_table, of_locations.view_as(locations), upper.lerp(lower, samples.y).view_as(weights)


def _is_near(coordinate: Tensor, length: Tensor) -> Tensor:
    return (coordinate >= -1) & (coordinate <= length)


@torch.library.custom_op("maft::deformable_bags_backward", mutates_args=())
def backward(
    gradient: Tensor,
    values: Tensor,
    extent: Tensor,
    locations: Tensor,
    weights: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of values, locations and weights; an operator of its own, since a compiler would keep all rows read."""
    sizes, step = list(zip(heights, widths)), _parts(weights)
    grid = _Grid.of(sizes, extent, weights[:1])
    of_values, of_locations, of_weights = (torch.empty_like(t) for t in (values, locations, weights))
    with torch.autocast(values.device.type, enabled=False):
        for image in range(len(values)):
            one = slice(image, image + 1)
            table = _table(values[one], sizes)
            of_table = torch.zeros_like(table)
            for start in range(0, weights.shape[1], step):
                queries = (one, slice(start, start + step))
                arguments = (gradient[queries], table, grid, locations[queries], weights[queries])
                part, of_locations[queries], of_weights[queries] = _gradients(*arguments)
                of_table += part
            for cells, target in _maps(of_table, of_values[one], sizes):
                target.copy_(cells)
    return of_values, of_locations, of_weights


@backward.register_fake
def _(gradient: Tensor, values: Tensor, extent: Tensor, locations: Tensor, weights: Tensor, heights, widths):
    return torch.empty_like(values), torch.empty_like(locations), torch.empty_like(weights)


class _WeightedBags(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, sizes: Sizes, extent: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(values, extent, locations, weights)
        ctx.sizes = sizes
        return forward(values, sizes, extent, locations, weights)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        heights, widths = [height for height, _ in ctx.sizes], [width for _, width in ctx.sizes]
        of_values, of_locations, of_weights = backward(gradient, *ctx.saved_tensors, heights, widths)
        return of_values, None, None, of_locations, of_weights


def weighted_bags(values: Tensor, sizes: Sizes, extent: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Deformable attention, computed in parts of few queries that stay in the cache, backwards as well.

    Every sampled value is a sum over four cells, so that the whole operation is one weighted bag of table rows per
    query and head: `embedding_bag` does it without writing the sampled values to memory, and with 32-bit indices. The
    backward pass computes indices anew instead of keeping them.

    Args:
        values: (B, S, heads, d), tokens of all levels, of any floating type.
        sizes: (height, width) of each of the L levels.
        extent: (L, 2), the same as (width, height) on the device of the values.
        locations: (B, Q, heads, L, P, 2) as (x, y) in [0, 1] of each level.
        weights: (B, Q, heads, L, P).

    Returns:
        (B, Q, heads * d) of the values' type; not a number where a location is not a number.
    """
    return _WeightedBags.apply(values, sizes, extent, locations, weights)
