"""What a file of weights says about where they come from."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from maft.errors import UserError

# Scalars that only OpenAI's TorchScript archives carry beside the weights.
OPENAI_SCALARS = ("input_resolution", "context_length", "vocab_size")
_TEXT_ROOTS = ("text.token_embedding.weight", "token_embedding.weight")

log = logging.getLogger(__name__)


def inner_clip(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The CLIP inside a state dict, named from its own root; a plain CLIP is returned whole.

    A segmentation checkpoint keeps it below a prefix (``clip_adapter.clip_model.``, ``backbone.clip_model.``). Of
    several, the first one is taken: checkpoints list the model before its teacher.

    Raises:
        UserError: there is no text tower, so there is no CLIP.
    """
    for name in state:
        root = next((root for root in _TEXT_ROOTS if name == root or name.endswith("." + root)), None)
        if root is None:
            continue
        prefix = name[: -len(root)]
        if prefix:
            log.info("Taking the CLIP below %r in %s.", prefix, source)
        return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    raise UserError(f"{source} holds no CLIP: it has no text tower (token_embedding.weight).")


def has_quick_gelu(state: Mapping[str, Tensor]) -> bool:
    """Whether the weights descend from OpenAI's, which were trained with QuickGELU.

    OpenAI published linear weights rounded to float16 and norms in float32. A tower that was never fine-tuned (the
    text tower of nearly every descendant) keeps that trace: its linear weights are float16, or float32 numbers that
    float16 represents exactly, which trained float32 weights never are. A file that is float16 throughout tells
    nothing and counts as no.
    """
    if any(scalar in state for scalar in OPENAI_SCALARS):
        return True
    norm = next((value for name, value in state.items() if name.endswith("ln_final.weight")), None)
    linear = [value for name, value in state.items() if name.endswith("resblocks.0.mlp.c_fc.weight")]
    if norm is None or norm.dtype != torch.float32:
        return False
    return any(bool(weight.any()) and torch.equal(weight.float(), weight.half().float()) for weight in linear)
