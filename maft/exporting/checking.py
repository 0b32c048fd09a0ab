"""Whether a written file computes what the model does, at batches and sizes that were not traced."""

from __future__ import annotations

import torch

from maft.exporting.formats import Run
from maft.exporting.parts import Part
from maft.exporting.tracing import TRACED

# Batch, and height and width as multiples of what the part asks for.
CHECKED = ((1, 2, 5), (3, 4, 2), (4, 3, 3))
TOLERANCE = 1e-4

assert TRACED not in CHECKED


@torch.no_grad()
def largest_difference(part: Part, run: Run) -> tuple[float, str]:
    """The largest difference of an output at the sizes `CHECKED`, and the output's name.

    Of each output it is the largest difference of a value, divided by the largest value where that is above one.
    """
    worst, place = 0.0, part.outputs[0].name
    for batch, rows, columns in CHECKED:
        inputs = part.example(batch, rows, columns)
        for port, found, expected in zip(part.outputs, run(*inputs), part.expected(*inputs), strict=True):
            difference = _difference(found, expected)
            # Not a number is larger than any.
            if not difference <= worst:
                worst, place = difference, port.name
    return worst, place


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
