"""The benchmarks by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from benchmarks import crops, deformable_attention, evaluator, ip_clip, mask_adapter, prompts, scaling, stage2, whole
from benchmarks.measure import Comparison
from maft.errors import UserError

BENCHMARKS: dict[str, Callable[[torch.device, int], list[Comparison]]] = {
    "ip-clip": ip_clip.run,
    "stage2": stage2.run,
    "prompts": prompts.run,
    "mask-adapter": mask_adapter.run,
    "scaling": scaling.run,
    "crops": crops.run,
    "evaluator": evaluator.run,
    "deformable-attention": deformable_attention.run,
}


# What `expanded` makes several of: every name, and the whole pieces of work, which another checkout can be measured in.
GROUPS = {"all": (*BENCHMARKS, *whole.WORKS), "whole": whole.WORKS}


def expanded(names: Iterable[str]) -> list[str]:
    """Names with groups in place of their own, each once.

    Raises:
        UserError: a name is unknown.
    """
    found: dict[str, None] = {}
    for name in names:
        if name not in (*GROUPS, *GROUPS["all"]):
            known = [*GROUPS, *GROUPS["all"]]
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise UserError(f"Unknown benchmark {name!r}; the known ones are: {', '.join(known)}.{hint}")
        found |= dict.fromkeys(GROUPS.get(name, (name,)))
    return list(found)


def run_benchmark(name: str, device: str = "cpu", repeats: int = 3, against: Path | None = None) -> list[Comparison]:
    """Runs one benchmark.

    Args:
        against: another checkout, for a whole piece of work; its forms are measured beside this one's.

    Raises:
        UserError: the name is unknown, ``repeats`` is below 1, the device is not there, or the benchmark compares forms
            of this checkout alone.
    """
    (name,) = expanded([name])
    if repeats < 1:
        raise UserError(f"--repeats is {repeats}, but a benchmark runs at least once.")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"--device {device!r} is no device: use cpu or cuda.") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but torch sees no CUDA device here: use cpu.")
    torch.manual_seed(0)
    if name in whole.WORKS:
        return whole.run_work(name, place, repeats, against)
    if against is not None:
        raise UserError(
            f"--against is for whole pieces of work, but {name} compares forms of one checkout: use "
            f"{', '.join(whole.WORKS)}."
        )
    return BENCHMARKS[name](place, repeats)
