"""Runs forms of one computation in turn; measures time, peak memory and how far their outputs are apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maft.reproduction.memory import peak_since, start_peak


@dataclass(frozen=True)
class Form:
    """One way to compute something.

    Attributes:
        name: as the table shows it.
        run: computes; returns a tensor, or several.
        tolerance: largest difference to the first form's output that is accepted, as a share of its largest value;
            None where this form computes something else, so that only its cost is compared.
        least_ratio: how many times the first form's time it takes at least, or the first has become slow; None where
            nothing is promised.
    """

    name: str
    run: Callable[[], Tensor | tuple[Tensor, ...]]
    tolerance: float | None = None
    least_ratio: float | None = None


@dataclass(frozen=True)
class Row:
    """What was measured of one form.

    Attributes:
        seconds: fastest of all passes.
        peak_mib: memory in use at most during the first pass, above what was in use before it; None where the
            platform does not tell.
        time_ratio, memory_ratio: how many times the first form's; None without a measurement.
        difference: see `largest_difference`; None where outputs are not comparable.
        same: whether the difference is within the form's tolerance.
        fast: whether the first form is as many times faster as the form says.
    """

    form: str
    seconds: float
    peak_mib: float | None
    time_ratio: float
    memory_ratio: float | None
    difference: float | None
    same: bool
    fast: bool = True


@dataclass(frozen=True)
class Comparison:
    """Rows of one benchmark setting, the first being the form this project uses."""

    benchmark: str
    setting: str
    rows: list[Row]


def compare(benchmark: str, setting: str, forms: Sequence[Form], device: torch.device, repeats: int = 3) -> Comparison:
    """Measures forms, pass by pass in turn so that a busy machine slows all of them alike.

    Args:
        forms: the first one is what the others are compared with.
        repeats: passes over all forms, at least 1.
    """
    seconds: dict[str, list[float]] = {form.name: [] for form in forms}
    peaks: dict[str, float | None] = {}
    differences: dict[str, float | None] = {}
    expected: tuple[Tensor, ...] = ()
    for number in range(repeats):
        for form in forms:
            before = None if number else start_peak(device)
            started = clock(device)
            output = form.run()
            seconds[form.name].append(clock(device) - started)
            if number:
                continue
            peaks[form.name] = peak_since(before, device)
            outputs = (output,) if isinstance(output, Tensor) else tuple(output)
            if form is forms[0]:
                expected = outputs
            differences[form.name] = None if form.tolerance is None else largest_difference(expected, outputs)
    first = forms[0].name
    rows = []
    for form in forms:
        best, difference = min(seconds[form.name]), differences[form.name]
        times = best / min(seconds[first])
        rows.append(
            Row(
                form=form.name,
                seconds=best,
                peak_mib=peaks[form.name],
                time_ratio=times,
                memory_ratio=ratio(peaks[form.name], peaks[first]),
                difference=difference,
                same=difference is None or form.tolerance is None or difference <= form.tolerance,
                fast=form.least_ratio is None or times >= form.least_ratio,
            )
        )
    return Comparison(benchmark, setting, rows)


def largest_difference(expected: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """Largest difference of two lists of tensors, each as a share of the largest absolute value expected of it.

    Infinite when a shape or the number of tensors differs.
    """
    if [tuple(tensor.shape) for tensor in expected] != [tuple(tensor.shape) for tensor in outputs]:
        return float("inf")
    shares = []
    for wanted, output in zip(expected, outputs, strict=True):
        if wanted.numel():
            distance = (wanted.double() - output.double()).abs().max()
            shares.append(float(distance / wanted.double().abs().max().clamp(min=1e-30)))
    return max(shares, default=0.0)


def ratio(value: float | None, base: float | None) -> float | None:
    """How many times a base; None where one of them was not measured."""
    return value / base if value is not None and base else None


def clock(device: torch.device) -> float:
    """Seconds, to be subtracted: of the processor where one thread works, which other processes take turns with.

    Otherwise of the clock on the wall, once a GPU has done what it was given.
    """
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return time.process_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
