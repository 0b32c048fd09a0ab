"""Runs recorded cases against our code and compares every output."""

from __future__ import annotations

import importlib
import pkgutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import golden
from golden.case import GoldenCase, adaptor, find_cases
from maft.errors import UserError


@dataclass(frozen=True)
class CaseResult:
    """The verdict on one case.

    Attributes:
        status: "pass", "fail" or "unsupported".
        tensors: how many recorded outputs were compared.
        error: worst absolute difference.
        tolerance: what that difference was allowed to be.
        detail: the tensor with the worst difference, or why the case did not run.
    """

    system: str
    name: str
    status: str
    tensors: int = 0
    error: float = 0.0
    tolerance: float = 0.0
    detail: str = ""


def run_folder(folder: Path, *, names: list[str] | None = None, device: str = "cpu") -> list[CaseResult]:
    """Runs all cases of a folder, or those called ``names``.

    Raises:
        UserError: the folder holds no case, or not the ones asked for.
    """
    files = find_cases(folder)
    if names:
        missing = set(names) - {file.stem for file in files}
        if missing:
            raise UserError(
                f"{folder} has no golden case {sorted(missing)[0]!r}; it has: {', '.join(f.stem for f in files)}."
            )
        files = [file for file in files if file.stem in names]
    return [run_case(file, device) for file in files]


def run_case(file: Path, device: str = "cpu") -> CaseResult:
    """Runs one case and compares every recorded output."""
    load_adaptors()
    case = GoldenCase.read(file, device)
    run = adaptor(case)
    if run is None:
        return CaseResult(case.system, case.name, "unsupported", detail="no code of ours runs this case")
    try:
        with _full_float32():
            return compare(case, dict(run(case)))
    except Exception:
        # A crash of one case is a failure to report beside the others, with its place, not the end of the run.
        return CaseResult(case.system, case.name, "fail", detail=traceback.format_exc(limit=-3).strip())


@contextmanager
def _full_float32() -> Iterator[None]:
    """Convolutions of a GPU in float32 all through: the recordings allow less than the ten bits of TF32 would cost."""
    switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    try:
        yield
    finally:
        for switch, allowed in zip(switches, before):
            switch.allow_tf32 = allowed


def load_adaptors() -> None:
    """Imports every module of this package, so that their adaptors are known."""
    for module in pkgutil.iter_modules(golden.__path__):
        importlib.import_module(f"golden.{module.name}")


def compare(case: GoldenCase, ours: dict[str, Tensor]) -> CaseResult:
    """Compares our outputs with the recorded ones; every recorded output must be there.

    Tensors recorded as "unofficial/..." (of a release that was repaired first) are compared when the adaptor returns
    them under that whole name.
    """
    recorded = case.outputs
    # A case of json alone records no tensors: its adaptor returns one 0/1 tensor per statement it checked.
    if not recorded:
        recorded = {name: torch.ones_like(value) for name, value in ours.items()}
    recorded |= {name: value for name, value in case.tensors.items() if name.startswith("unofficial/") and name in ours}
    missing = sorted(name for name in recorded if ours.get(name) is None)
    if missing or not recorded:
        return CaseResult(case.system, case.name, "fail", detail=f"outputs not computed: {', '.join(missing) or 'all'}")
    fraction = float(case.record.get("tolerance", {}).get("integer_mismatch_fraction", 0.0))
    status, worst = "pass", (-1.0, 0.0, 0.0, "")
    for name, theirs in recorded.items():
        full_name = name if name in case.tensors else f"out/{name}"
        error, allowed, fits = _difference(
            theirs.detach(), ours[name].detach().to(theirs.device), case.tolerance(full_name), fraction
        )
        if not fits:
            status = "fail"
        ratio = error / allowed if allowed else (float("inf") if error else 0.0)
        if ratio > worst[0]:
            worst = (ratio, error, allowed, name)
    return CaseResult(case.system, case.name, status, len(recorded), worst[1], worst[2], worst[3])


def _difference(
    theirs: Tensor, ours: Tensor, tolerance: tuple[float, float], fraction: float
) -> tuple[float, float, bool]:
    """(error, allowed error, fits); integers count the share of different elements."""
    if theirs.shape != ours.shape:
        return float("inf"), 0.0, False
    if theirs.numel() == 0:
        return 0.0, 0.0, True
    relative, absolute = tolerance
    if not theirs.is_floating_point() and absolute < 1:
        # A fraction must not pass as the integer that it would be cut to.
        share = float((theirs.double() != ours.double()).double().mean())
        return share, fraction, share <= fraction
    left, right = theirs.double(), ours.double()
    same_nan = torch.equal(left.isnan(), right.isnan())
    left, right = left.nan_to_num(), right.nan_to_num()
    error = float((left - right).abs().max())
    allowed = absolute + relative * float(left.abs().max())
    return error, allowed, same_nan and error <= allowed
