"""Recorded learning-rate schedules and optimiser settings of the official training scripts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from golden.case import GoldenCase, golden_case
from golden.clip import convnext_clip
from maft.checkpoint.official.released import key_map
from maft.clip import VocabularyEncoder
from maft.config_keys import add_maft_config
from maft.engine.schedules import build_scheduler
from maft.engine.solver import parameter_groups
from maft.ensembles import ClassifierAlone
from maft.interfaces import BuildContext
from maft.registry import CLASSIFIERS, PROPOSERS
from maft.segmentor import OpenVocabSegmentor


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


@golden_case(
    "maskadapter",
    "optimizer_fcclip",
    "optimizer_maftp",
    "optimizer_warmup",
    "optimizer_fcclip_maskadapter",
    "optimizer_maftp_maskadapter",
)
def optimizer(case: GoldenCase) -> dict[str, Tensor]:
    """Every trainable parameter with its rate and decay, by official name, and the rates over the iterations."""
    recorded = case.config["SOLVER"]
    model = _stage(case.name.removeprefix("optimizer_"), case.config["tiny_model"])
    # The official backbone is the image tower of CLIP, which most stages freeze.
    tuned = any(parameter.requires_grad for parameter in model.clip.parameters())
    cfg = _solver(
        **{key: recorded[key] for key in recorded if key in _SAME_KEYS},
        POLY_POWER=recorded["POLY_LR_POWER"],
        END_FACTOR=recorded["POLY_LR_CONSTANT_ENDING"],
        LR_MULTIPLIERS=[["clip.", recorded["BACKBONE_MULTIPLIER"]]] if tuned else [],
    )
    ours = {
        name: [group["lr"], group["weight_decay"]]
        for group in parameter_groups(model, cfg.SOLVER)
        for name in group["names"]
    }
    theirs = key_map("mask_adapter").convert(case.record["param_groups"], case.name)
    assert ours.keys() == theirs.keys(), f"other parameters are trained: {sorted(ours.keys() ^ theirs.keys())[:8]}"
    relative, absolute = case.tolerance("out/lr_factor")
    for name, values in theirs.items():
        for mine, wanted in zip(ours[name], values):
            assert math.isclose(mine, wanted, rel_tol=relative, abs_tol=absolute), f"{name}: {ours[name]}, not {values}"
    rates = _rates(cfg, case.inputs["iterations"].tolist())
    return {"lr_factor": rates / cfg.SOLVER.BASE_LR}


# Solver options that the official configs and ours share.
_SAME_KEYS = (
    "BASE_LR", "MAX_ITER", "STEPS", "GAMMA", "LR_SCHEDULER_NAME", "WARMUP_FACTOR", "WARMUP_ITERS", "WARMUP_METHOD",
    "WEIGHT_DECAY", "WEIGHT_DECAY_NORM", "WEIGHT_DECAY_EMBED", "OPTIMIZER",
)  # fmt: skip


def _stage(name: str, sizes: Mapping[str, Any]) -> OpenVocabSegmentor:
    """The model of one training stage, with what it freezes; the recorded sizes, since they decide how many layers."""
    adapter = "maskadapter" in name or name == "warmup"
    clip = convnext_clip(sizes, torch.device("cpu"))
    context = BuildContext(clip, num_classes=3, backbone=nn.Identity)
    transfer = "post_norm" if name.startswith("maftp") else "none"
    if name == "warmup":
        proposer = PROPOSERS.build("GroundTruth", {}, context)
    else:
        width = sizes["hidden_dim"]
        proposer = PROPOSERS.build(
            "Mask2Former",
            {
                "BACKBONE": "clip", "CLASS_HEAD": "pooled", "NUM_QUERIES": sizes["num_queries"], "CONV_DIM": width,
                "MASK_DIM": width, "HIDDEN_DIM": width, "ENCODER_LAYERS": sizes["enc_layers"],
                "DECODER_LAYERS": sizes["dec_layers"] - 1,
            },
            context,
        )  # fmt: skip
    if adapter:
        classifier = CLASSIFIERS.build("MaskAdapter", {"TEXT_TRANSFER": transfer}, context)
    elif name == "maftp":
        classifier = CLASSIFIERS.build("MAFTPlus", {"TEXT_TRANSFER": transfer}, context)
    else:
        classifier = CLASSIFIERS.build("MaskPooling", {}, context)
    return OpenVocabSegmentor(
        clip=clip,
        # MAFT+'s second stage alone leaves the no-object embedding out of the optimiser.
        vocabulary_encoder=VocabularyEncoder(
            clip.embed_dim, clip.text_width, templates="single", train_void=name != "maftp_maskadapter"
        ),
        proposer=proposer,
        classifier=classifier,
        ensemble=ClassifierAlone(),
        losses={},
        freeze_proposer=adapter,
        inference={},
    )
