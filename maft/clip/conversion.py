"""CLIP weights of other libraries under open_clip's names, and their descriptions as open_clip's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from open_clip import CustomTextCLIP
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor

from maft.checkpoint.key_map import KeyMap
from maft.checkpoint.official.clip import RULES
from maft.checkpoint.official.released import key_map
from maft.errors import UserError, first_line, shown

# What transformers leaves out of a config.json, because it is the default of its CLIPConfig.
_TEXT_DEFAULTS = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "hidden_act": "quick_gelu",
}
_VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
}


def as_encoder_state(model: Any, state: Mapping[str, Tensor], title: str) -> dict[str, Tensor]:
    """Weights of a CLIP, in any spelling that is known, under the names of ``CLIPEncoder``.

    Args:
        model: the open_clip model they are for.
        state: from CLIP's own root: open_clip's or OpenAI's names, CLIPModel's of the transformers library, or
            MobileCLIP's own.
        title: how messages call the file; begins a sentence.

    Raises:
        UserError: a name is of none of them.
    """
    plain = dict(state)
    if "text_model.embeddings.token_embedding.weight" in plain:
        plain = _from_transformers(plain, title)
    try:
        plain = convert_state_dict(model, plain)
    except (LookupError, AttributeError, RuntimeError, ValueError) as error:
        raise UserError(f"{title} are no MobileCLIP weights for this tower ({first_line(error)[:120]}).") from error
    if isinstance(model, CustomTextCLIP):
        plain = convert_to_custom_text_state_dict(plain)
    for name in ("logit_scale", "logit_bias"):
        # Some are saved as a vector of one.
        if isinstance(mine := getattr(model, name, None), Tensor) and name in plain and plain[name].numel() == 1:
            plain[name] = plain[name].reshape(mine.shape)
    return KeyMap(RULES).convert(plain, title)


def _from_transformers(state: Mapping[str, Tensor], title: str) -> dict[str, Tensor]:
    renamed = key_map("transformers_clip").convert(state, title)
    for name in ("text_projection", "visual.proj"):
        if name in renamed:
            renamed[name] = renamed[name].T.contiguous()
    for query in [name for name in renamed if re.search(r"\.in_proj_(weight|bias)\.q$", name)]:
        parts = [renamed.pop(query[:-1] + part, None) for part in "qkv"]
        renamed[query[:-2]] = torch.cat([part for part in parts if part is not None])
    return renamed


def config_from_transformers(described: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The open_clip ``model_cfg`` of a ``config.json`` of the transformers library.

    Raises:
        UserError: it is of another model than CLIP, or of a CLIP that open_clip cannot express.
    """
    kind = described.get("model_type")
    if kind != "clip":
        raise UserError(
            f"{source} describes a {shown(kind)} model, not a CLIP: give a folder with open_clip_config.json."
        )
    try:
        text, vision = (
            {**defaults, **(described.get(f"{part}_config") or {}), **(described.get(f"{part}_config_dict") or {})}
            for part, defaults in (("text", _TEXT_DEFAULTS), ("vision", _VISION_DEFAULTS))
        )
        acts = {text["hidden_act"], vision["hidden_act"]}
        if len(acts) > 1 or not acts <= {"gelu", "quick_gelu"}:
            raise UserError(
                f"{source} has the activations {', '.join(sorted(acts))}; one of gelu and quick_gelu is read."
            )
        shared = [
            {
                "width": part["hidden_size"],
                "layers": part["num_hidden_layers"],
                "mlp_ratio": part["intermediate_size"] / part["hidden_size"],
            }
            for part in (vision, text)
        ]
        return {
            "embed_dim": described.get("projection_dim", 512),
            "quick_gelu": acts == {"quick_gelu"},
            "vision_cfg": {
                **shared[0],
                "head_width": vision["hidden_size"] // vision["num_attention_heads"],
                "patch_size": vision["patch_size"],
                "image_size": vision["image_size"],
            },
            "text_cfg": {
                **shared[1],
                "heads": text["num_attention_heads"],
                "context_length": text["max_position_embeddings"],
                "vocab_size": text["vocab_size"],
            },
        }
    except (TypeError, ArithmeticError) as error:
        raise UserError(f"{source} is not a description of a CLIP ({first_line(error)[:120]}).") from error
