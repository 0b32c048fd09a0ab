"""Objects from a model that was trained for labels alone, whose proposals show one region several times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from maft.structures import Proposals

# Share of a proposal within a better one of its name from which on it shows the same object.
_SAME = 0.8


def merged(proposals: Proposals, probabilities: Tensor, things: Tensor) -> tuple[Proposals, Proposals]:
    """Proposals of one image of which one stands for each segment, and those of them whose best name is a thing.

    The panoptic rule keeps a proposal that owns most of its mask. Where nothing teaches a model to propose a region
    only once, proposals of the same region take it from each other, and none is left. So a proposal of a thing goes
    when four fifths of it lie within a better one of the same name, and those of a class that is no thing, which is
    one segment, become one: at each pixel the highest product of class probability and mask value, over the
    probability of the best.

    Args:
        proposals: of one image.
        probabilities: (Q, C) or (Q, C + 1), void last.
        things: (C,) bool.
    """
    masks = proposals.masks[0].float()
    soft = masks.sigmoid() if proposals.are_logits else masks
    # Proposals that name nothing are in nobody's way.
    scores, labels = probabilities.max(dim=1)
    named = labels < len(things)
    countable = named & things[labels.clamp(max=len(things) - 1)]
    order = scores.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)

    inside = (soft >= 0.5).flatten(1).float()
    within = inside @ inside.T >= _SAME * inside.sum(1, keepdim=True).clamp(min=1)
    rival = (labels[:, None] == labels) & (rank < rank[:, None]) & countable[:, None]
    gone = (within & rival).any(1)

    # Of other classes the best proposal stands for all.
    stuff = named & ~countable
    first = torch.full((len(things) + 1,), len(order), device=order.device).scatter_reduce(0, labels, rank, "amin")
    best = stuff & (first[labels] == rank)
    weighted = soft * (scores * stuff)[:, None, None]
    index = labels[:, None, None].expand_as(weighted)
    union = soft.new_zeros(len(things) + 1, *soft.shape[1:]).scatter_reduce(0, index, weighted, "amax")
    together = union[labels] / scores.clamp(min=1e-12)[:, None, None]
    shown = torch.where(best[:, None, None], together.clamp(max=1), soft)
    valid = ~gone & (~stuff | best)
    if proposals.valid is not None:
        valid &= proposals.valid[0]
    segments = replace(proposals, masks=shown[None], are_logits=False, valid=valid[None])
    return segments, replace(segments, valid=(valid & countable)[None])


def merged_results(
    combined: Callable[..., dict[str, Any]], proposals: Proposals, probabilities: Tensor, things: Tensor
) -> dict[str, Any]:
    """Panoptic and instance results of `merged` proposals.

    Args:
        combined: results of proposals under changed options of ``MODEL.INFERENCE``.
        proposals, probabilities, things: see `merged`.
    """
    segments, objects = merged(proposals, probabilities, things)
    return combined(segments, semantic=False, panoptic=True) | combined(objects, semantic=False, instance=True)
