"""Optimiser, parameter groups and gradient clipping from the config."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim import Optimizer

from maft.engine.sharding import clip_joint_norm
from maft.errors import UserError

_NORM_TYPES = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)

logger = logging.getLogger(__name__)


def learning_rate_factor(name: str, solver: CfgNode) -> float:
    """Product of the factors of all ``LR_MULTIPLIERS`` whose text occurs in the parameter's name.

    As in Detectron2, ``BIAS_LR_FACTOR`` (unless None) multiplies the rate of every bias.
    """
    factor = 1.0
    if _is_bias(name) and solver.BIAS_LR_FACTOR is not None:
        factor = float(solver.BIAS_LR_FACTOR)
    for part, value in solver.LR_MULTIPLIERS:
        if part in name:
            factor *= value
    return factor


def weight_decay(name: str, module: nn.Module, parameter: Tensor, solver: CfgNode) -> float:
    """Weight decay of one parameter.

    Args:
        name: full name in the model.
        module: the module that owns it, whose type decides between ``WEIGHT_DECAY``, ``_NORM`` and ``_EMBED``.
        parameter: any shape; tensors of fewer than two dimensions are not decayed under ``DECAY_ONLY_MATRICES``.
        solver: ``cfg.SOLVER``; the first match in ``WEIGHT_DECAY_OVERRIDES`` wins over everything else, then, as in
            Detectron2, ``WEIGHT_DECAY_BIAS`` (unless None) holds for every bias, also of norms.
    """
    for part, value in solver.WEIGHT_DECAY_OVERRIDES:
        if part in name:
            return float(value)
    if _is_bias(name) and solver.WEIGHT_DECAY_BIAS is not None:
        return float(solver.WEIGHT_DECAY_BIAS)
    if isinstance(module, _NORM_TYPES):
        return solver.WEIGHT_DECAY_NORM
    if isinstance(module, nn.Embedding):
        return solver.WEIGHT_DECAY_EMBED
    if solver.DECAY_ONLY_MATRICES and parameter.ndim < 2:
        return 0.0
    return solver.WEIGHT_DECAY


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2] == "bias"


def parameter_groups(model: nn.Module, solver: CfgNode) -> list[dict[str, Any]]:
    """One optimiser group per (learning rate, weight decay), with the parameters' names under ``"names"``.

    Sharded parameters and whole ones are groups of their own, since no operation takes both at once.

    Raises:
        UserError: nothing in the model requires a gradient.
    """
    groups: dict[tuple[float, float, type], dict[str, Any]] = {}
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in trainable.items():
        rate = solver.BASE_LR * learning_rate_factor(name, solver)
        decay = weight_decay(name, model.get_submodule(name.rpartition(".")[0]), parameter, solver)
        options = {"params": [], "names": [], "lr": rate, "weight_decay": decay}
        group = groups.setdefault((rate, decay, type(parameter)), options)
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise UserError(
            "Nothing in this model can be trained: MODEL.PROPOSER and MODEL.CLASSIFIER are frozen or have no "
            "trainable part; set FROZEN False for one of them."
        )
    for part, _ in solver.LR_MULTIPLIERS:
        if not any(part in name for name in trainable):
            logger.warning("SOLVER.LR_MULTIPLIERS: no trainable parameter has %r in its name.", part)
    return list(groups.values())


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """The optimiser that ``SOLVER.OPTIMIZER`` names (ADAMW or SGD), over the trainable parameters of ``model``.

    By ``SOLVER.FUSED`` its step is PyTorch's fused one, a kernel for all parameters, by default that of AdamW on a GPU.

    Raises:
        UserError: nothing is trainable.
    """
    solver = cfg.SOLVER
    groups = parameter_groups(model, solver)
    fused = solver.FUSED
    if fused is None:
        fused = solver.OPTIMIZER == "ADAMW" and all(one.is_cuda for group in groups for one in group["params"])
    # False would also turn off the step that takes all tensors of a group together.
    options = {"lr": solver.BASE_LR, "fused": fused or None}
    optimizer: Optimizer
    if solver.OPTIMIZER == "ADAMW":
        optimizer = torch.optim.AdamW(groups, betas=tuple(solver.BETAS), eps=solver.EPS, **options)
    else:
        optimizer = torch.optim.SGD(groups, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **options)
    optimizer.register_step_post_hook(_raise_versions)
    return optimizer


def _raise_versions(optimizer: Optimizer, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Has every parameter say that it was written, which fused steps do not: texts are kept for a version of CLIP."""
    if optimizer.defaults["fused"]:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                increment_version(parameter)


def clip_gradients(parameters: Iterable[nn.Parameter], clip: CfgNode) -> Tensor | None:
    """Clips gradients in place by ``SOLVER.CLIP_GRADIENTS``.

    ``full_model`` scales all gradients together so that their joint norm is at most ``CLIP_VALUE``; ``norm`` and
    ``value`` are Detectron2's per-parameter rules.

    Returns:
        the joint norm before clipping (scalar) under ``full_model``, else None.
    """
    if not clip.ENABLED:
        return None
    if clip.CLIP_TYPE == "full_model":
        return clip_joint_norm(list(parameters), clip.CLIP_VALUE, clip.NORM_TYPE)
    for parameter in parameters:
        if clip.CLIP_TYPE == "norm":
            nn.utils.clip_grad_norm_(parameter, clip.CLIP_VALUE, norm_type=clip.NORM_TYPE)
        else:
            nn.utils.clip_grad_value_(parameter, clip.CLIP_VALUE)
    return None
