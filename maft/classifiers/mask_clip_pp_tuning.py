"""What MaskCLIP++ tunes of CLIP's towers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from torch import nn

from maft.clip import CLIPEncoder
from maft.errors import UserError

ImageRule = Literal["attention", "all", "none"]
TextRule = Literal["attention", "attention_mlp_norms", "none"]

_POSITIONS = ("pos_embed", "positional_embedding")


def tuned_image_parameters(visual: nn.Module, rule: ImageRule) -> Iterator[nn.Parameter]:
    """Parameters of an image tower.

    Args:
        visual: the tower.
        rule: "attention" stands for what projects tokens to queries and values, without EVA's biases, and the position
            embedding. Where one matrix gives queries, keys and values (CLIP's ViT, EVA-01), it is tuned whole.

    Raises:
        UserError: a tower without attention of its own is to have its attention tuned.
    """
    if rule == "none":
        return
    if rule == "all":
        yield from visual.parameters()
        return
    projections = [weight for module in visual.modules() for weight in _query_and_value(module)]
    if not projections:
        raise UserError(
            f"MODEL.CLASSIFIER.MaskCLIPpp.TRAIN is attention, but the image tower ({type(visual).__name__}) has no "
            "attention in blocks: use all or none."
        )
    yield from projections
    yield from (parameter for name, parameter in visual.named_parameters() if name.endswith(_POSITIONS))


def _query_and_value(module: Any) -> list[nn.Parameter]:
    if isinstance(module, nn.MultiheadAttention):
        return [module.in_proj_weight, module.in_proj_bias]
    if isinstance(getattr(module, "qkv", None), nn.Linear):
        return [module.qkv.weight]
    if isinstance(getattr(module, "q_proj", None), nn.Linear) and hasattr(module, "k_proj"):
        return [module.q_proj.weight, module.v_proj.weight]
    return []


def tuned_text_parameters(clip: CLIPEncoder, rule: TextRule) -> Iterator[nn.Parameter]:
    """Parameters of CLIP's text tower.

    Args:
        clip: the CLIP.
        rule: "attention" stands for the matrix that gives queries, keys and values in every block, and the position
            embedding. "attention_mlp_norms" adds the MLPs and LayerNorms of the blocks, which the released EVA models
            were trained with.

    Raises:
        UserError: the text tower is not CLIP's transformer.
    """
    if rule == "none":
        return
    parts = (".ln_1.", ".ln_2.", ".mlp.") if rule == "attention_mlp_norms" else ()
    tuned = [
        parameter
        for name, parameter in clip.text_parameters()
        if ".resblocks." in name and (name.endswith("attn.in_proj_weight") or any(part in name for part in parts))
    ]
    if not tuned:
        raise UserError(
            f"MODEL.CLASSIFIER.MaskCLIPpp.TRAIN_TEXT is {rule}, but the text tower of {clip.name} is not CLIP's "
            "transformer: use none."
        )
    yield from tuned
    yield from (parameter for name, parameter in clip.text_parameters() if name.endswith(_POSITIONS))
