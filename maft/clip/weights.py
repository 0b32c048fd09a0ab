"""Fetches CLIP weights through open_clip, or says which file to fetch by hand and where to put it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from open_clip.pretrained import download_pretrained
from torch import Tensor

from maft.clip.hub import HUB, cached_file, check_reachable, is_offline
from maft.errors import UserError, first_line

# Scalars that only OpenAI's TorchScript archives carry beside the weights.
OPENAI_SCALARS = ("input_resolution", "context_length", "vocab_size")
# The table of tokens in every spelling of a text tower; one may end like another, so the longer come first.
_TEXT_ROOTS = (
    "text_model.embeddings.token_embedding.weight",
    "text.transformer.embeddings.word_embeddings.weight",
    "text.transformer.embed_tokens.weight",
    "text_encoder.embedding_layer.weight",
    "text.token_embedding.weight",
    "token_embedding.weight",
)

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


# In a snapshot both open_clip's and the transformers library's may lie.
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")


def download_weights(name: str, tag: str, config: Mapping[str, Any]) -> Path:
    """Path of the weights of an open_clip tag, downloaded unless they are already there.

    A copy in OpenAI's own folder (``~/.cache/clip``), whose checksum open_clip verifies, and one in the Hugging Face
    cache are used before the network is tried.

    Args:
        config: open_clip's entry for the tag ("url", "hf_hub").

    Raises:
        UserError: the download is impossible; the sentence names the file, its address and where to put it.
    """
    url = str(config.get("url", ""))
    repository, _, file = str(config.get("hf_hub", "")).rpartition("/")
    archive = Path("~/.cache/clip").expanduser() / Path(url).name if url else None
    at_hand = archive is not None and archive.is_file()
    if not at_hand:
        for candidate in [file] if file else WEIGHT_FILES[:2]:
            if repository and (kept := cached_file(repository, candidate)):
                return kept
    try:
        if not at_hand:
            if repository and is_offline():
                raise OSError("HF_HUB_OFFLINE is set")
            # The hub's client retries an unknown host for most of a minute.
            check_reachable(HUB if repository else url)
        log.info("Fetching the weights of CLIP %s from %s.", name, repository or url)
        return Path(download_pretrained(dict(config), prefer_hf_hub=not at_hand))
    except (URLError, OSError, RuntimeError, ValueError) as error:
        page = f"{HUB}/{repository}/resolve/main/{file or WEIGHT_FILES[0]}"
        place = f" and put it at {archive}, or set" if archive else " and set"
        reason = first_line(error)[:120]
        raise UserError(
            f"The {tag} weights of CLIP {name} could not be downloaded ({reason}): fetch {url or page} on another "
            f"machine{place} MODEL.CLIP.PRETRAINED to the path of the file."
        ) from error
