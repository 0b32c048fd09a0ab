"""Whole pieces of work of this checkout and of another one: their processes take turns, and outputs are compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.measure import Comparison, Row, largest_difference, ratio
from maft.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
WORKS = (
    "maft-inference", "mask-adapter-inference", "ovseg-proposals", "ovseg-regions", "maft-training",
    "freeseg-training", "warm-up-training", "lsj-mapper", "panoptic-results", "semantic-171", "semantic-847",
    "large-results", "confusion-171", "confusion-847", "catalogue", "text-rows",
)  # fmt: skip
# Differences of sums taken in another order, as a share of the largest value; of labels, the share that differs.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Side:
    """A checkout and how its work is done: float32, bfloat16 or compiled."""

    name: str
    checkout: Path
    form: str = "float32"


def sides(device: torch.device, against: Path | None) -> list[Side]:
    """This checkout first, then the other one, then the quick forms that a GPU has.

    Raises:
        UserError: the other checkout is none.
    """
    found = [Side("this checkout", ROOT)]
    if against is not None:
        if not (against / "maft" / "__init__.py").is_file():
            raise UserError(f"--against {against} is no checkout of this project: it has no maft/__init__.py.")
        found.append(Side(f"the checkout {against.name}", against.resolve()))
    if device.type == "cuda":
        found += [Side(form, ROOT, form) for form in ("bfloat16", "compiled")]
    return found


def run_work(name: str, device: torch.device, repeats: int, against: Path | None = None) -> list[Comparison]:
    """One piece of work as a whole, then by its stages.

    Raises:
        UserError: a process ends early, such as where the other checkout has other weights; its last words are given.
    """
    with tempfile.TemporaryDirectory() as folder:
        children: list[_Child] = []
        try:
            for number, side in enumerate(sides(device, against)):
                children.append(_Child(name, side, device, Path(folder), number))
            for child in children:
                child.ask("outputs")
            passes: list[list[dict[str, Any]]] = [[] for _ in children]
            for _ in range(repeats):
                for child, measured in zip(children, passes):
                    measured.append(child.ask("run"))
        finally:
            for child in children:
                child.end()
        differences = [None, *(_difference(children[0].outputs, child.outputs) for child in children[1:])]
    whole = [[one["seconds"] for one in measured] for measured in passes]
    peaks = [measured[0]["peak"] for measured in passes]
    tables = [Comparison(name, children[0].setting, _rows(children, whole, peaks, differences))]
    staged = [(child, measured) for child, measured in zip(children, passes) if measured[0]["stages"]]
    for stage in passes[0][0]["stages"]:
        parts = [[one["stages"][stage] for one in measured] for _, measured in staged]
        rows = _rows([child for child, _ in staged], parts, [None] * len(staged), [None] * len(staged))
        tables.append(Comparison(name, f"of it {stage}", rows))
    return tables


def _rows(
    children: Sequence[_Child],
    seconds: Sequence[Sequence[float]],
    peaks: Sequence[float | None],
    differences: Sequence[float | None],
) -> list[Row]:
    best = [min(passes) for passes in seconds]
    return [
        Row(
            form=child.side.name,
            seconds=fastest,
            peak_mib=peak,
            time_ratio=fastest / best[0],
            memory_ratio=ratio(peak, peaks[0]),
            difference=difference,
            # Half precision is another computation.
            same=difference is None or child.side.form == "bfloat16" or difference <= TOLERANCE,
        )
        for child, fastest, peak, difference in zip(children, best, peaks, differences)
    ]


def _difference(expected: Path, found: Path) -> float:
    """The largest of all outputs: see `largest_difference`; of integers and flags, the share that is another."""
    wanted, outputs = load_file(expected), load_file(found)
    if wanted.keys() != outputs.keys():
        return float("inf")
    shares = []
    for name, value in wanted.items():
        other = outputs[name]
        if value.is_floating_point() or value.shape != other.shape:
            shares.append(largest_difference([value], [other]))
        else:
            shares.append(float((value != other).double().mean()) if value.numel() else 0.0)
    return max(shares, default=0.0)


class _Child:
    """A process of one side, waiting for its turn."""

    def __init__(self, name: str, side: Side, device: torch.device, folder: Path, number: int) -> None:
        self.side, self.outputs = side, folder / f"{number}.safetensors"
        self.errors = folder / f"{number}.txt"
        # The checkout before whatever is installed, then what measures: this checkout's, on both sides.
        path = os.pathsep.join([str(side.checkout), str(ROOT / "tools")])
        command = [
            sys.executable, "-m", "benchmarks.whole_child", name, "--device", str(device),
            "--threads", str(torch.get_num_threads()), "--form", side.form,
            "--weights", str(folder / "weights.safetensors"), "--outputs", str(self.outputs),
        ]  # fmt: skip
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": path},
            )
        answer = self._answer()
        self.setting = str(answer["setting"])
        if Path(answer["package"]) != side.checkout:
            self.end()
            raise UserError(f"{side.checkout} was to be measured, but Python imports maft from {answer['package']}.")

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.end()
            words = self.errors.read_text().strip().splitlines()
            raise UserError(
                f"The process of {self.side.name} ended early: {words[-1] if words else 'it said nothing'}."
            )
        return json.loads(line)

    def end(self) -> None:
        """Lets the process end, however far it is."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
