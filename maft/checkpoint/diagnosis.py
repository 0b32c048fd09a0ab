"""Says in words why a checkpoint does not fit a model, where names and shapes give it away."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Shapes = Mapping[str, Tensor | torch.Size]

_QUERIES = ("query_features.weight", "query_embed.weight")


def explain(model: Shapes, state: Shapes) -> str:
    """The likeliest mistake behind a misfit as the end of a sentence; empty when there is no telling.

    Args:
        model: names and tensors, or shapes, of the model.
        state: those of the checkpoint.
    """
    common = [name for name in model if name in state]
    if len(common) < min(len(model), len(state)) / 2:
        return (
            f"it belongs to another architecture (only {len(common)} of its {len(state)} tensors have a counterpart "
            f"among the model's {len(model)}); choose the config it was trained with"
        )
    theirs, ours = (embedding_width(shapes) for shapes in (state, model))
    if theirs and ours and theirs != ours:
        return (
            f"it was trained with a CLIP of embedding width {theirs} and MODEL.CLIP.NAME has one of {ours}; "
            "use the CLIP it was trained with, or train stage 1 again with this one"
        )
    for name in filter(lambda name: name.endswith(_QUERIES), common):
        theirs, ours = _shape(state[name])[0], _shape(model[name])[0]
        if theirs != ours:
            return f"it has {theirs} queries, not {ours}; set NUM_QUERIES of the proposer to {theirs}"
    return ""


def embedding_width(shapes: Shapes) -> int:
    """Width of the joint space of CLIP that a model or checkpoint was made for; 0 when nothing says."""
    for name, value in shapes.items():
        if name.endswith(("void_embedding", "text_projection")):
            return _shape(value)[-1]
    return 0


def _shape(value: Tensor | torch.Size) -> torch.Size:
    return value.shape if isinstance(value, Tensor) else value
