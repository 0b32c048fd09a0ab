"""What a run says when a GPU has no memory left: which options need less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode

from maft.errors import UserError, first_line


@contextmanager
def within_memory(what: str, advice: str) -> Iterator[None]:
    """Raises UserError with an advice where a GPU has no memory left for what happens within."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        # Behind what was asked for, PyTorch explains its allocator at length.
        reason = first_line(error).partition(" GPU ")[0].rstrip(".")
        raise UserError(f"The memory of the GPU does not suffice for {what} ({reason}): {advice}.") from error


def training_advice(cfg: CfgNode, processes: int) -> str:
    """The options of a training that need less memory and are not in use, in the order of their price."""
    solver, ways = cfg.SOLVER, []
    if solver.IMS_PER_BATCH % (processes * solver.ACCUMULATE * 2) == 0:
        ways.append(f"SOLVER.ACCUMULATE {solver.ACCUMULATE * 2} halves the images of a pass")
    if not solver.AMP.ENABLED:
        ways.append("SOLVER.AMP.ENABLED True with SOLVER.AMP.DTYPE bfloat16 halves most activations")
    if not solver.ACTIVATION_CHECKPOINTING:
        ways.append("SOLVER.ACTIVATION_CHECKPOINTING recomputes those of the blocks it names")
    if processes > 1 and not solver.SHARDED:
        ways.append("SOLVER.SHARDED True shares gradients and the optimiser's state among the processes")
    return "; ".join([*ways, "smaller crops (INPUT.CROP.SIZE, INPUT.PADDED_SIZE) need less, with other results"])


def evaluation_advice(cfg: CfgNode) -> str:
    """The options of an evaluation that need less memory and are not in use."""
    ways = []
    if not cfg.MODEL.INFERENCE.LABELS_ONLY:
        ways.append("MODEL.INFERENCE.LABELS_ONLY True keeps no score map of each class")
    if cfg.TEST.AUG.ENABLED:
        ways.append("fewer or smaller TEST.AUG.MIN_SIZES see the image at a lower resolution")
    ways.append(
        f"INPUT.MIN_SIZE_TEST below {cfg.INPUT.MIN_SIZE_TEST} and INPUT.MAX_SIZE_TEST below {cfg.INPUT.MAX_SIZE_TEST} "
        "make the images smaller, with other results"
    )
    return "; ".join(ways)
