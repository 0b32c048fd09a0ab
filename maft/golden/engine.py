"""Recorded learning-rate schedules and optimiser settings of the official training scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from torch import Tensor, nn

from maft.config import add_maft_config
from maft.engine.schedules import build_scheduler, learning_rates
from maft.golden.case import GoldenCase, golden_case


def _rates(cfg: CfgNode, iterations: list[int]) -> Tensor:
    """(iterations,) float64 learning rates that our schedule gives a parameter without a multiplier."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    rates = learning_rates(build_scheduler(cfg, optimizer), iterations)
    return torch.tensor(rates, dtype=torch.float64)[:, 0]


def _solver(**options: Any) -> CfgNode:
    cfg = get_cfg()
    add_maft_config(cfg)
    for name, value in options.items():
        cfg.SOLVER[name] = value
    return cfg


def _agree(rates: Tensor, recorded: list[float], tolerance: Mapping[str, float]) -> Tensor:
    expected = torch.tensor(recorded, dtype=torch.float64)
    return torch.isclose(rates, expected, rtol=tolerance["rtol"], atol=tolerance["atol"]).long()


@golden_case("ovseg", "lr_schedules")
def lr_schedules(case: GoldenCase) -> dict[str, Tensor]:
    agree = {}
    tolerance = case.record["tolerance"]
    for name, record in case.record["warmup_poly"].items():
        cfg = _solver(
            LR_SCHEDULER_NAME="WarmupPolyLR",
            BASE_LR=record["base_lr"],
            MAX_ITER=record["max_iter"],
            WARMUP_FACTOR=record["warmup_factor"],
            WARMUP_ITERS=record["warmup_iters"],
            WARMUP_METHOD=record["warmup_method"],
            POLY_POWER=record["power"],
            END_FACTOR=record["constant_ending"],
        )
        agree[f"warmup_poly/{name}"] = _agree(_rates(cfg, record["iters"]), record["lr"], tolerance)
    for name, record in case.record["clip_cosine"].items():
        cfg = _solver(
            LR_SCHEDULER_NAME="WarmupThenCosineLR",
            BASE_LR=record["base_lr"],
            MAX_ITER=record["total_steps"],
            WARMUP_ITERS=record["warmup"],
        )
        agree[f"clip_cosine/{name}"] = _agree(_rates(cfg, record["steps"]), record["lr"], tolerance)
    return agree
