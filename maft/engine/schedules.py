"""Learning-rate schedules by ``SOLVER.LR_SCHEDULER_NAME``."""

from __future__ import annotations

import math
import warnings

from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from maft.errors import UserError, first_line


def warmup_poly(solver: CfgNode, iteration: int) -> float:
    """(1 - i / MAX_ITER)^POLY_POWER from the first iteration, times a linear warm-up, never below END_FACTOR after it.

    The rule of DeepLab and of its ``WarmupPolyLR`` in Detectron2, whose state would fix MAX_ITER for a resumed run.
    """
    decayed = max(1.0 - iteration / solver.MAX_ITER, 0.0) ** solver.POLY_POWER
    if iteration >= solver.WARMUP_ITERS:
        return max(decayed, solver.END_FACTOR)
    share = iteration / solver.WARMUP_ITERS
    return decayed * (solver.WARMUP_FACTOR * (1.0 - share) + share)


def warmup_then_cosine(solver: CfgNode, iteration: int) -> float:
    """Linear warm-up (i + 1) / WARMUP_ITERS, then a half cosine from 1 to END_FACTOR over the remaining iterations.

    The rule of open_clip's training, which OVSeg's CLIP fine-tuning follows.
    """
    if iteration < solver.WARMUP_ITERS:
        return (iteration + 1) / solver.WARMUP_ITERS
    share = (iteration - solver.WARMUP_ITERS) / max(solver.MAX_ITER - solver.WARMUP_ITERS, 1)
    return solver.END_FACTOR + (1.0 - solver.END_FACTOR) * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))


_OURS = {"WarmupPolyLR": warmup_poly, "WarmupThenCosineLR": warmup_then_cosine}


def build_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """The schedule that the config names, at iteration 0; step it once per optimiser step.

    Detectron2's own multi-step and cosine multiply with a warm-up given by SOLVER.WARMUP_FACTOR and _ITERS.

    Raises:
        UserError: other values of SOLVER do not go with it.
    """
    solver, name = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER_NAME
    if name not in _OURS:
        try:
            return build_lr_scheduler(cfg, optimizer)
        except (AssertionError, ArithmeticError, ValueError) as error:
            raise UserError(
                f"SOLVER.LR_SCHEDULER_NAME {name} does not go with SOLVER's other values ({first_line(error)})."
            ) from error
    if name == "WarmupPolyLR" and solver.WARMUP_METHOD != "linear":
        raise UserError(f"SOLVER.WARMUP_METHOD {solver.WARMUP_METHOD!r} does not go with WarmupPolyLR: use linear.")
    return LambdaLR(optimizer, lambda iteration: _OURS[name](solver, iteration))


def set_iteration(scheduler: LRScheduler, iteration: int) -> None:
    """Puts a schedule, and the rates of its optimiser, where they are before an iteration (counted from 0).

    Every schedule here is a function of the iteration alone.
    """
    scheduler.last_epoch = iteration
    with warnings.catch_warnings():
        # PyTorch expects a scheduler to be asked for rates by its own step.
        warnings.simplefilter("ignore")
        rates = scheduler.get_lr()
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
