"""Learning-rate schedules by ``SOLVER.LR_SCHEDULER_NAME``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable

from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from maft.errors import UserError

Factor = Callable[[int], float]


def warmup_poly(
    max_iter: int, *, power: float, end: float = 0.0, warmup_iters: int = 0, warmup_factor: float = 1.0
) -> Factor:
    """(1 - i / max_iter)^power from the first iteration, times a linear warm-up, never below ``end`` after it.

    The rule of DeepLab and of Detectron2's ``WarmupPolyLR``.
    """

    def factor(iteration: int) -> float:
        decayed = max(1.0 - iteration / max_iter, 0.0) ** power
        if iteration < warmup_iters:
            share = iteration / warmup_iters
            return decayed * (warmup_factor * (1.0 - share) + share)
        return max(decayed, end)

    return factor


def warmup_then_cosine(max_iter: int, *, warmup_iters: int = 0, end: float = 0.0) -> Factor:
    """Linear warm-up (i + 1) / warmup_iters, then a half cosine from 1 to ``end`` over the remaining iterations.

    The rule of open_clip's training, which OVSeg's CLIP fine-tuning follows.
    """

    def factor(iteration: int) -> float:
        if iteration < warmup_iters:
            return (iteration + 1) / warmup_iters
        share = (iteration - warmup_iters) / max(max_iter - warmup_iters, 1)
        return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))

    return factor


# Detectron2's own; multi-step and cosine there multiply with a warm-up given by SOLVER.WARMUP_FACTOR and _ITERS.
_DETECTRON2 = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")


def build_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """The schedule that the config names, at iteration 0; step it once per optimiser step.

    Raises:
        UserError: the name or the warm-up method is unknown.
    """
    solver = cfg.SOLVER
    name = solver.LR_SCHEDULER_NAME
    if name in _DETECTRON2:
        return build_lr_scheduler(cfg, optimizer)
    if name == "WarmupPolyLR":
        if solver.WARMUP_METHOD != "linear":
            raise UserError(f"SOLVER.WARMUP_METHOD {solver.WARMUP_METHOD!r} does not go with WarmupPolyLR: use linear.")
        factor = warmup_poly(
            solver.MAX_ITER,
            power=solver.POLY_POWER,
            end=solver.END_FACTOR,
            warmup_iters=solver.WARMUP_ITERS,
            warmup_factor=solver.WARMUP_FACTOR,
        )
    elif name == "WarmupThenCosineLR":
        factor = warmup_then_cosine(solver.MAX_ITER, warmup_iters=solver.WARMUP_ITERS, end=solver.END_FACTOR)
    else:
        known = ", ".join(("WarmupPolyLR", "WarmupThenCosineLR", *_DETECTRON2))
        raise UserError(f"Unknown schedule {name!r} in SOLVER.LR_SCHEDULER_NAME; the known ones are: {known}.")
    return LambdaLR(optimizer, factor)


def learning_rates(scheduler: LRScheduler, iterations: Iterable[int]) -> list[list[float]]:
    """The rates of all parameter groups at the given iterations, in any order, without stepping the optimiser."""
    present = scheduler.last_epoch
    rates = []
    with warnings.catch_warnings():
        # PyTorch expects get_lr to be called by step alone.
        warnings.simplefilter("ignore", UserWarning)
        for iteration in iterations:
            scheduler.last_epoch = iteration
            rates.append([float(rate) for rate in scheduler.get_lr()])
    scheduler.last_epoch = present
    return rates
