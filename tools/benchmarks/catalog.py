"""The benchmarks by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import torch

from benchmarks import crops, deformable_attention, evaluator, ip_clip, mask_adapter
from benchmarks.measure import Comparison
from maft.errors import UserError

BENCHMARKS: dict[str, Callable[[torch.device, int], list[Comparison]]] = {
    "ip-clip": ip_clip.run,
    "mask-adapter": mask_adapter.run,
    "crops": crops.run,
    "evaluator": evaluator.run,
    "deformable-attention": deformable_attention.run,
}


def run_benchmark(name: str, device: str = "cpu", repeats: int = 3) -> list[Comparison]:
    """Runs one benchmark.

    Raises:
        UserError: the name is unknown, ``repeats`` is below 1, or the device is not there.
    """
    if name not in BENCHMARKS:
        close = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"Unknown benchmark {name!r}; the known ones are: {', '.join(BENCHMARKS)}.{hint}")
    if repeats < 1:
        raise UserError(f"--repeats is {repeats}, but a benchmark runs at least once.")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"--device {device!r} is no device: use cpu or cuda.") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but torch sees no CUDA device here: use cpu.")
    torch.manual_seed(0)
    return BENCHMARKS[name](place, repeats)
