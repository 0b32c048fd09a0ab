"""Finds, downloads and loads CLIP weights, and builds the model they belong to."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.pretrained import get_pretrained_cfg
from torch import Tensor

from maft.checkpoint.io import read_state_dict
from maft.checkpoint.key_map import KeyMap, load_strictly
from maft.checkpoint.official.clip import RULES
from maft.clip.encoder import BytePairTokenizer, CLIPEncoder
from maft.clip.weights import download_weights, has_quick_gelu, inner_clip
from maft.errors import UserError, closest
from maft.miniature.tokenizer import WordTokenizer
from maft.miniature.towers import TINY_CLIPS, tiny_clip_folder

QUICK_GELU_SUFFIX = "-quickgelu"
RANDOM = "random"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Source:
    """What is known of a CLIP before anything is built."""

    name: str
    config: dict[str, Any]
    tokenizer: Any
    quick_gelu: bool
    weights: Path | None = None
    download: Mapping[str, Any] | None = None
    mean: tuple[float, ...] = OPENAI_DATASET_MEAN
    std: tuple[float, ...] = OPENAI_DATASET_STD
    state: dict[str, Tensor] = field(default_factory=dict)


def load_clip(
    name: str,
    pretrained: str = "",
    *,
    device: str | torch.device | None = None,
    load_weights: bool = True,
    weights: Mapping[str, Tensor] | None = None,
    cache_dir: str | Path | None = None,
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
        load_weights: False builds the architecture alone, when a checkpoint will fill it; nothing is downloaded.
        weights: tensors under the encoder's own names, as a checkpoint of a model holds them; ``name`` and
            ``pretrained`` then only say which CLIP it is, and nothing is downloaded or read.
        cache_dir: where downloads are kept; default: open_clip's and the Hugging Face hub's folders.

    Raises:
        UserError: unknown name or tag, missing or unfit weights, or a download that is impossible.
    """
    device = torch.get_default_device() if device is None else torch.device(device)
    # A model without memory has no use for a file, such as the one that an earlier stage will leave.
    needed = {} if weights is None and device.type == "meta" else weights
    if _folder_of(name):
        source = _from_folder(name, pretrained if needed is None else "")
    else:
        source = _from_architecture(name, pretrained, needed)
    wanted = weights is None and load_weights and pretrained != RANDOM and device.type != "meta"
    state = source.state
    if wanted and not state:
        file = source.weights or download_weights(source.name, pretrained, source.download or {}, cache_dir)
        state = inner_clip(read_state_dict(file), str(file))
    clip = clip_from_config(
        source.name,
        source.config,
        quick_gelu=source.quick_gelu,
        tokenizer=source.tokenizer,
        mean=source.mean,
        std=source.std,
        device=device,
    )
    if wanted:
        title = str(source.weights) if source.weights else f"The {pretrained} weights of CLIP {source.name}"
        load_strictly(clip, KeyMap(RULES).convert(state, title), title)
    elif weights is not None and device.type != "meta":
        load_strictly(clip, weights, "The CLIP in the checkpoint")
    return clip


def _folder_of(name: str) -> Path | None:
    folder = tiny_clip_folder(name) if name in TINY_CLIPS else Path(name)
    return folder if (folder / "open_clip_config.json").is_file() else None


def _from_folder(name: str, pretrained: str) -> _Source:
    folder = _folder_of(name)
    assert folder is not None
    file = folder / "open_clip_config.json"
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
        config = dict(described["model_cfg"])
    except (ValueError, KeyError) as error:
        raise UserError(f"{file} is not an open_clip model description: model_cfg is missing or unreadable.") from error
    if pretrained not in ("", RANDOM) and not Path(pretrained).is_file():
        raise UserError(
            f"MODEL.CLIP.PRETRAINED is {pretrained!r}, which is no file, and {name} brings its own weights: "
            'set it to "" for those, or to a weights file.'
        )
    preprocess = described.get("preprocess_cfg", {})
    table = folder / "tokenizer.json"
    context_length = int(config.get("text_cfg", {}).get("context_length", 77))
    weights = Path(pretrained) if pretrained not in ("", RANDOM) else _weights_of(folder, pretrained)
    return _Source(
        name=name,
        config=config,
        tokenizer=WordTokenizer.from_file(table) if table.is_file() else BytePairTokenizer(context_length),
        quick_gelu=bool(config.get("quick_gelu", False)),
        weights=weights,
        mean=tuple(preprocess.get("mean", OPENAI_DATASET_MEAN)),
        std=tuple(preprocess.get("std", OPENAI_DATASET_STD)),
    )


def _weights_of(folder: Path, pretrained: str) -> Path | None:
    if pretrained == RANDOM:
        return None
    names = ("model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def _from_architecture(name: str, pretrained: str, weights: Mapping[str, Tensor] | None = None) -> _Source:
    base = name.removesuffix(QUICK_GELU_SUFFIX)
    config = open_clip.get_model_config(base) if base in open_clip.list_models() else None
    if config is None:
        raise UserError(
            f"Unknown CLIP {name!r} in MODEL.CLIP.NAME: it is neither an open_clip architecture nor a folder with "
            f"open_clip_config.json.{closest(name, open_clip.list_models())}"
        )
    context_length = int(config["text_cfg"].get("context_length", 77))
    suffix = name != base
    common = {"name": name, "config": config, "tokenizer": BytePairTokenizer(context_length)}
    if not pretrained:
        raise UserError(
            f"MODEL.CLIP.PRETRAINED is empty and {name} has no weights of its own: give an open_clip tag such as "
            f"{_tags(base)[0] if _tags(base) else 'openai'}, a weights file, or random."
        )
    if pretrained == RANDOM:
        return _Source(**common, quick_gelu=suffix)
    if pretrained in _tags(base):
        tag = get_pretrained_cfg(base, pretrained)
        return _Source(
            **common,
            quick_gelu=bool(tag.get("quick_gelu", False)),
            download=tag,
            mean=tuple(tag.get("mean") or OPENAI_DATASET_MEAN),
            std=tuple(tag.get("std") or OPENAI_DATASET_STD),
        )
    if weights is not None:
        # Tuned from a file that need not exist here.
        return _Source(**common, quick_gelu=suffix or ("openai" in _tags(base) and has_quick_gelu(weights)))
    if not Path(pretrained).is_file():
        raise UserError(
            f"MODEL.CLIP.PRETRAINED {pretrained!r} is neither a file nor a tag of {base}; its tags are: "
            f"{', '.join(_tags(base)) or 'none'}.{closest(pretrained, _tags(base))}"
        )
    state = inner_clip(read_state_dict(pretrained), pretrained)
    quick_gelu = suffix or ("openai" in _tags(base) and has_quick_gelu(state))
    return _Source(**common, quick_gelu=quick_gelu, weights=Path(pretrained), state=state)


def _tags(base: str) -> list[str]:
    return list(open_clip.list_pretrained_tags_by_model(base))


def clip_from_config(
    name: str,
    config: Mapping[str, Any],
    *,
    quick_gelu: bool,
    tokenizer: Any = None,
    mean: tuple[float, ...] = OPENAI_DATASET_MEAN,
    std: tuple[float, ...] = OPENAI_DATASET_STD,
    device: str | torch.device = "cpu",
) -> CLIPEncoder:
    """An untrained CLIP from the ``model_cfg`` of an open_clip configuration.

    Raises:
        UserError: a tower is of a kind that is not supported.
    """
    text = config["text_cfg"]
    if "multimodal_cfg" in config or "hf_model_name" in text:
        raise UserError(f"The text tower of CLIP {name} is not supported: choose a ViT, ConvNeXt or ResNet CLIP.")
    arguments = {key: value for key, value in config.items() if key not in ("custom_text", "quick_gelu")}
    arguments["vision_cfg"] = {**config["vision_cfg"]}
    if "timm_model_name" in config["vision_cfg"]:
        arguments["vision_cfg"]["timm_model_pretrained"] = False
    model_class = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    if tokenizer is None:
        tokenizer = BytePairTokenizer(int(text.get("context_length", 77)))
    with torch.device(device):
        model = model_class(**arguments, quick_gelu=quick_gelu)
        return CLIPEncoder(model, tokenizer, name=name, mean=mean, std=std)
