"""Finds, downloads and loads CLIP weights, and builds the model they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg
from torch import Tensor

from maft.checkpoint.io import read_state_dict
from maft.checkpoint.key_map import KeyMap, load_strictly
from maft.checkpoint.official.clip import RULES
from maft.clip.encoder import BytePairTokenizer, CLIPEncoder
from maft.clip.weights import download_weights, has_quick_gelu, inner_clip
from maft.errors import UserError, closest, first_line
from maft.miniature.tokenizer import WordTokenizer
from maft.miniature.towers import TINY_CLIPS, tiny_clip_folder

QUICK_GELU_SUFFIX = "-quickgelu"
RANDOM = "random"


@dataclass(frozen=True)
class _Source:
    """What is known of a CLIP before anything is built.

    Attributes:
        config: open_clip's ``model_cfg``.
        options: what else `clip_from_config` takes of it.
        file: of its weights, where it is known without a download.
        tag: open_clip's entry for a download.
        state: the weights, where they had to be looked at.
    """

    config: Mapping[str, Any]
    options: dict[str, Any]
    file: Path | None = None
    tag: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)


def load_clip(
    name: str,
    pretrained: str = "",
    *,
    device: str | torch.device | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> CLIPEncoder:
    """A frozen CLIP in float32.

    The activation follows the origin of the weights: OpenAI's towers were trained with QuickGELU and get it whether
    or not ``name`` ends in ``-quickgelu``.

    Args:
        name: an open_clip architecture ("ViT-B-16", "convnext_large_d_320", "RN50x4"), a folder with
            ``open_clip_config.json``, or a shipped tower ("tiny_vit", "tiny_convnext").
        pretrained: an open_clip tag ("openai", "laion2b_s34b_b88k"), a weights file (OpenAI's TorchScript archive, an
            open_clip state dict, safetensors, or a segmentation checkpoint with a CLIP in it), "" for a folder's own
            weights, or "random" for untrained weights.
        device: where the model is built, by default torch's default device; "meta" builds it without memory and
            without weights.
        weights: tensors under the encoder's own names, as a checkpoint of a model holds them; ``name`` and
            ``pretrained`` then only say which CLIP it is, and nothing is downloaded or read.

    Raises:
        UserError: unknown name or tag, missing or unfit weights, or a download that is impossible.
    """
    device = torch.get_default_device() if device is None else torch.device(device)
    # A model without memory has no use for a file, such as the one that an earlier stage will leave.
    given = {} if weights is None and device.type == "meta" else weights
    folder = tiny_clip_folder(name) if name in TINY_CLIPS else Path(name)
    if (folder / "open_clip_config.json").is_file():
        source = _from_folder(name, folder, pretrained if given is None else "")
    else:
        source = _from_architecture(name, pretrained, given)
    try:
        clip = clip_from_config(name, source.config, device=device, **source.options)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError, AssertionError) as error:
        if name in open_clip.list_models():
            raise
        raise UserError(
            f"CLIP {name} cannot be built from its open_clip_config.json ({type(error).__name__}: "
            f"{first_line(error)[:200]}): correct model_cfg."
        ) from error
    if device.type == "meta" or (given is None and pretrained == RANDOM):
        return clip
    if given is not None:
        load_strictly(clip, given, "The CLIP in the checkpoint")
        return clip
    file = source.file or download_weights(name, pretrained, source.tag)
    state = source.state or inner_clip(read_state_dict(file), str(file))
    title = str(source.file or f"The {pretrained} weights of CLIP {name}")
    load_strictly(clip, KeyMap(RULES).convert(state, title), title)
    return clip


def _from_folder(name: str, folder: Path, pretrained: str) -> _Source:
    description = folder / "open_clip_config.json"
    try:
        described = json.loads(description.read_text(encoding="utf-8"))
        config = dict(described["model_cfg"])
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{description} is not an open_clip model description: model_cfg is missing or unreadable."
        ) from error
    names = ("model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    file = next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
    if pretrained not in ("", RANDOM):
        file = Path(pretrained)
        if not file.is_file():
            raise UserError(
                f"MODEL.CLIP.PRETRAINED is {pretrained!r}, which is no file, and {name} brings its own weights: "
                'set it to "" for those, or to a weights file.'
            )
    options: dict[str, Any] = {"quick_gelu": bool(config.get("quick_gelu", False))}
    options |= _statistics(described.get("preprocess_cfg", {}))
    if (folder / "tokenizer.json").is_file():
        options["tokenizer"] = WordTokenizer.from_file(folder / "tokenizer.json")
    return _Source(config, options, file)


def _from_architecture(name: str, pretrained: str, weights: Mapping[str, Tensor] | None) -> _Source:
    base = name.removesuffix(QUICK_GELU_SUFFIX)
    config = open_clip.get_model_config(base) if base in open_clip.list_models() else None
    if config is None:
        raise UserError(
            f"Unknown CLIP {name!r} in MODEL.CLIP.NAME: it is neither an open_clip architecture nor a folder with "
            f"open_clip_config.json.{closest(name, open_clip.list_models())}"
        )
    tags = list(open_clip.list_pretrained_tags_by_model(base))
    if not pretrained:
        raise UserError(
            f"MODEL.CLIP.PRETRAINED is empty and {name} has no weights of its own: give an open_clip tag such as "
            f"{tags[0] if tags else 'openai'}, a weights file, or random."
        )
    if pretrained in tags:
        tag = get_pretrained_cfg(base, pretrained)
        return _Source(config, {"quick_gelu": bool(tag.get("quick_gelu", False)), **_statistics(tag)}, tag=tag)
    file, state = None, weights or {}
    # Weights at hand were tuned from a file that need not exist here.
    if pretrained != RANDOM and weights is None:
        file = Path(pretrained)
        if not file.is_file():
            raise UserError(
                f"MODEL.CLIP.PRETRAINED {pretrained!r} is neither a file nor a tag of {base}; its tags are: "
                f"{', '.join(tags) or 'none'}.{closest(pretrained, tags)}"
            )
        state = inner_clip(read_state_dict(file), pretrained)
    quick_gelu = name != base or (pretrained != RANDOM and "openai" in tags and has_quick_gelu(state))
    return _Source(config, {"quick_gelu": quick_gelu}, file, state=state)


def _statistics(described: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """The pixel statistics that a description holds."""
    return {name: tuple(described[name]) for name in ("mean", "std") if described.get(name)}


def clip_from_config(
    name: str,
    config: Mapping[str, Any],
    *,
    quick_gelu: bool,
    tokenizer: Any = None,
    device: str | torch.device = "cpu",
    **statistics: tuple[float, ...],
) -> CLIPEncoder:
    """An untrained CLIP from the ``model_cfg`` of an open_clip configuration.

    Args:
        tokenizer: see `CLIPEncoder`; by default CLIP's.
        statistics: ``mean`` and ``std`` of pixels in 0..1, by default OpenAI's.

    Raises:
        UserError: a tower is of a kind that is not supported.
    """
    text = config["text_cfg"]
    if "multimodal_cfg" in config or "hf_model_name" in text:
        raise UserError(f"The text tower of CLIP {name} is not supported: choose a ViT, ConvNeXt or ResNet CLIP.")
    arguments = {key: value for key, value in config.items() if key not in ("custom_text", "quick_gelu")}
    arguments["vision_cfg"] = {**config["vision_cfg"]}
    if "timm_model_name" in config["vision_cfg"]:
        # With a scheme before it, timm would fetch it from a hub, or read another folder.
        if ":" in str(config["vision_cfg"]["timm_model_name"]):
            raise UserError(f"The image tower of CLIP {name} must be named as timm lists it, without a place before.")
        arguments["vision_cfg"]["timm_model_pretrained"] = False
    model_class = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    if tokenizer is None:
        tokenizer = BytePairTokenizer(int(text.get("context_length", 77)))
    with torch.device(device):
        model = model_class(**arguments, quick_gelu=quick_gelu)
        return CLIPEncoder(model, tokenizer, name=name, **statistics)
