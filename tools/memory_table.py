#!/usr/bin/env python3
"""Print what a training of each config holds beside its activations, as the Markdown table of docs/memory_and_hours.md.

Models and optimisers are built without memory, and one empty step is taken so that the optimiser has its state. Configs
that differ in nothing the table shows share a line, under the shortest of their names.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from maft.errors import ToolParser, run_tool
from maft.packaged import configs

if TYPE_CHECKING:
    from torch import Tensor


class Row(NamedTuple):
    """Parameters of the model and of them those with gradients; bytes; images a step, steps; mixed precision or not."""

    parameters: int
    trained: int
    held: int
    batch: int
    iterations: int
    mixed: bool


def measure(config: Path) -> Row:
    """The numbers of one config; ``held`` is the bytes of weights, buffers, gradients and optimiser state.

    Raises:
        UserError: the config is wrong, or its model needs a file to be built.
    """
    import torch

    from maft.building import build_model
    from maft.checkpoint.loading import InitialWeights
    from maft.config import load_config
    from maft.engine.solver import build_optimizer

    cfg = load_config(config)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg, InitialWeights())
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        states = []
        # Of some configs nothing trains; there is no optimiser of nothing.
        if trained:
            optimizer = build_optimizer(cfg, model)
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return Row(
        sum(parameter.numel() for parameter in model.parameters()),
        sum(parameter.numel() for parameter in trained),
        _bytes([*model.parameters(), *model.buffers(), *trained, *states]),
        cfg.SOLVER.IMS_PER_BATCH,
        cfg.SOLVER.MAX_ITER,
        cfg.SOLVER.AMP.ENABLED,
    )


def _bytes(tensors: Iterable["Tensor"]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def line(names: Sequence[str], row: Row) -> str:
    """One line of the table for the configs that share it."""
    name, *more = sorted(names, key=lambda name: (len(name), name))
    return (
        f"| `{name}`{f' and {len(more)} more' if more else ''} | {row.parameters / 1e6:.1f} | {row.trained / 1e6:.2f} "
        f"| {row.held / 2**30:.2f} | {row.batch} | {row.iterations:,} | {'yes' if row.mixed else 'no'} |"
    )


def shown_configs() -> list[Path]:
    """Those that stand for a paper; the sizes of a SAM and of a DINO are known from their files alone."""
    files = sorted(configs().glob("*/*.yaml"))
    with_files = ("sam_", "dino")
    return [
        file
        for file in files
        if file.parent.name not in ("_base_", "quickstart") and not any(part in file.name for part in with_files)
    ]


def main() -> None:
    ToolParser(description=__doc__).parse_args()
    logging.disable(logging.WARNING)
    shared = defaultdict(list)
    for file in shown_configs():
        shared[measure(file)].append(f"{file.parent.name}/{file.stem}")
    print("| config | parameters, M | trained, M | held, GiB | batch | iterations | mixed precision |")
    print("|---|---|---|---|---|---|---|")
    for row, names in shared.items():
        print(line(names, row))


if __name__ == "__main__":
    run_tool(main)
