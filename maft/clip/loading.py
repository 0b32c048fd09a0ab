"""Builds a CLIP and loads its weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from maft.checkpoint.key_map import load_strictly
from maft.clip.conversion import as_encoder_state
from maft.clip.encoder import CLIPEncoder
from maft.clip.sources import RANDOM, find_source
from maft.clip.text import huggingface_config, without_weights
from maft.clip.tokenizers import HuggingFaceTokenizer, tokenizer_of
from maft.errors import UserError, first_line


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
            ``open_clip_config.json`` or a CLIP of the transformers library (``config.json``), a repository of the
            Hugging Face hub ("hf-hub:timm/ViT-B-16-SigLIP"), or a shipped tower ("tiny_vit", "tiny_convnext",
            "tiny_siglip").
        pretrained: an open_clip tag ("openai", "laion2b_s34b_b88k"), a weights file (OpenAI's TorchScript archive,
            MobileCLIP's, an open_clip state dict, safetensors, or a segmentation checkpoint with a CLIP in it),
            "tag=file" for a file whose origin must be told, "" for a folder's or repository's own weights, or
            "random" for untrained weights.
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
    source = find_source(name, pretrained, given)
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
    if isinstance(clip.tokenizer, HuggingFaceTokenizer):
        # What it lacks is better said now than after a download of gigabytes.
        clip.tokenizer.loaded  # noqa: B018
    if given is not None:
        load_strictly(clip, given, "The CLIP in the checkpoint")
        return clip
    title, state = source.weights(name, pretrained)
    load_strictly(clip, as_encoder_state(clip.model, state, title), title)
    return clip


def clip_from_config(
    name: str,
    config: Mapping[str, Any],
    *,
    quick_gelu: bool,
    tokenizer: Any = None,
    folder: Path | None = None,
    text_model: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    **statistics: tuple[float, ...],
) -> CLIPEncoder:
    """An untrained CLIP from the ``model_cfg`` of an open_clip configuration.

    Of a CoCa, which also writes captions, the two towers of its CLIP are built.

    Args:
        tokenizer: see `CLIPEncoder`; by default the one that ``text_cfg`` asks for.
        folder: the tower's own, where the files of a Hugging Face tokenizer are looked for first.
        text_model: ``config.json`` of a text tower of the transformers library; by default that of ``hf_model_name``.
        statistics: ``mean`` and ``std`` of pixels in 0..1, by default OpenAI's.

    Raises:
        UserError: a tower is of a kind that is not supported, or its description is not at hand.
    """
    text = {**config["text_cfg"], "output_tokens": False}
    vision = {**config["vision_cfg"], "output_tokens": False}
    if "timm_model_name" in vision:
        # With a scheme before it, timm would fetch it from a hub, or read another folder.
        if ":" in str(vision["timm_model_name"]):
            raise UserError(f"The image tower of CLIP {name} must be named as timm lists it, without a place before.")
        vision["timm_model_pretrained"] = False
    huggingface = text.get("hf_model_name")
    if tokenizer is None:
        tokenizer = tokenizer_of(name, text, folder)
    if huggingface and text_model is None:
        text_model = huggingface_config(name, str(huggingface), folder)
    own_text = config.get("custom_text") or huggingface or "multimodal_cfg" in config
    model_class = open_clip.CustomTextCLIP if own_text else open_clip.CLIP
    left_out = ("custom_text", "quick_gelu", "multimodal_cfg")
    arguments = {key: value for key, value in config.items() if key not in left_out}
    replaced: Any = without_weights(name, text_model) if text_model else nullcontext({})
    with torch.device(device), replaced as sizes:
        arguments |= {"vision_cfg": vision, "text_cfg": {**text, **sizes}}
        model = model_class(**arguments, quick_gelu=quick_gelu)
        return CLIPEncoder(model, tokenizer, name=name, **statistics)
