"""One checkout's side of `benchmarks.whole`: prepares a piece of work and does it whenever its parent says so.

Run as a module, with the checkout that is measured first on the path; answers are JSON, a line each.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import maft
from benchmarks.measure import clock
from benchmarks.whole_data import DATA
from benchmarks.whole_models import MODELS
from benchmarks.work import Work
from maft.reproduction.memory import peak_since, start_peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--form", choices=["float32", "bfloat16", "compiled"], default="float32")
    parser.add_argument("--weights", type=Path, required=True, help="made by the first one, read by the others")
    parser.add_argument("--outputs", type=Path, required=True)
    arguments = parser.parse_args()

    # Libraries print, too: answers keep the old standard output to themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    work = {**MODELS, **DATA}[arguments.name](device)
    if work.model is not None:
        share_weights(work.model, arguments.weights)
    seconds: dict[str, float] = {}
    run = _formed(work, arguments.form, device)
    if arguments.form != "compiled":
        _time_stages(work, seconds, device)
    for command in chain(["ready"], map(str.strip, sys.stdin)):
        answer: dict[str, Any] = {}
        if command == "ready":
            answer = {"package": str(Path(maft.__file__).resolve().parent.parent), "setting": work.setting}
        elif command == "outputs":
            outputs = {name: value.detach().cpu().contiguous().clone() for name, value in run().items()}
            save_file(outputs, arguments.outputs)
        else:
            answer = _measured(run, seconds, device)
        print(json.dumps(answer), file=answers, flush=True)


def share_weights(model: nn.Module, file: Path) -> None:
    """Writes the weights of a model, or gives it those that are there already, to the last tensor."""
    if file.exists():
        model.load_state_dict(load_file(file), strict=True)
    else:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}, file)


def _formed(work: Work, form: str, device: torch.device) -> Callable[[], Mapping[str, Tensor]]:
    if form == "compiled":
        for owner, name in work.stages.values():
            if isinstance(owner, nn.Module) and name == "forward":
                setattr(owner, name, torch.compile(getattr(owner, name)))

    def run() -> Mapping[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16) if form == "bfloat16" else nullcontext():
            return work.run()

    return run


def _time_stages(work: Work, seconds: dict[str, float], device: torch.device) -> None:
    def timed(stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*inputs: Any, **more: Any) -> Any:
            started = clock(device)
            result = call(*inputs, **more)
            seconds[stage] = seconds.get(stage, 0.0) + clock(device) - started
            return result

        return run

    for stage, (owner, name) in work.stages.items():
        setattr(owner, name, timed(stage, getattr(owner, name)))


def _measured(
    run: Callable[[], Mapping[str, Tensor]], seconds: dict[str, float], device: torch.device
) -> dict[str, Any]:
    seconds.clear()
    before = start_peak(device)
    started = clock(device)
    run()
    return {"seconds": clock(device) - started, "stages": dict(seconds), "peak": peak_since(before, device)}


if __name__ == "__main__":
    main()
