"""Small random copies of every CLIP that open_clip lists: ours and open_clip's own, with the same weights."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import open_clip
import torch
from open_clip.coca_model import CoCa
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from maft.clip.encoder import CLIPEncoder
from maft.clip.loading import clip_from_config
from maft.clip.text import without_weights
from maft.clip.tokenizers import BytePairTokenizer
from maft.clip.towers.shrinking import shrunk_image
from maft.errors import UserError, closest

_WIDTH, _HEADS, _LAYERS, _VOCABULARY = 64, 4, 2, 1000
# What a repository's config.json would say, by the beginning of its name; sizes of one kind go by different names.
_FAMILIES = {"xlm-roberta": "xlm-roberta", "roberta": "roberta", "google/mt5": "mt5", "facebook/nllb": "m2m_100"}
_WIDTHS = ("hidden_size", "intermediate_size", "d_model", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim")
_SIZES = {
    **dict.fromkeys(_WIDTHS, _WIDTH),
    **dict.fromkeys(("num_attention_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), _HEADS),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "encoder_layers"), _LAYERS),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers"), 1),
    "d_kv": _WIDTH // _HEADS,
    "vocab_size": _VOCABULARY,
}


def listed_clips() -> list[str]:
    """The names of all CLIPs that open_clip describes."""
    return list(open_clip.list_models())


def clip_config(name: str) -> dict[str, Any]:
    """The ``model_cfg`` of a listed CLIP.

    Raises:
        UserError: open_clip lists none of that name.
    """
    if name not in open_clip.list_models():
        raise UserError(f"open_clip lists no CLIP {name!r}.{closest(name, open_clip.list_models())}")
    return dict(open_clip.get_model_config(name))


def small_text_model(repository: str) -> Mapping[str, Any]:
    """A small ``config.json`` of the kind that a repository of the transformers library has.

    Raises:
        UserError: its kind is not known.
    """
    kind = next((kind for start, kind in _FAMILIES.items() if repository.startswith(start)), None)
    if kind is None:
        raise UserError(f"The kind of the text tower {repository} is not known: {', '.join(_FAMILIES)} are.")
    return {"model_type": kind, "is_encoder_decoder": kind in ("mt5", "m2m_100"), **_SIZES}


def small_pair(name: str) -> tuple[CLIPEncoder, nn.Module]:
    """A small random copy of a listed CLIP, of the same classes, and open_clip's own model with the same weights.

    Weights that start at 0 or 1 are random as well: what is left out or put in the wrong place has to show. Where the
    tokenizer needs files, the tokens of a text are random, too.

    Raises:
        UserError: a tower is of a kind that is not supported.
    """
    config = clip_config(name)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(zlib.crc32(name.encode()))
        with _shrunk(name, config) as (small, text_model, original):
            clip = clip_from_config(name, small, quick_gelu=bool(config.get("quick_gelu")), text_model=text_model)
            _randomise(clip.model)
            reference = original()
    missing, unexpected = reference.load_state_dict(clip.model.state_dict(), strict=False)
    if unexpected or any(not key.startswith("text_decoder.") for key in missing):
        raise AssertionError(f"open_clip's own {name} has other weights: {missing}, {unexpected}")
    if not isinstance(clip.tokenizer, BytePairTokenizer):
        # Its files are not needed to compare towers, and classifiers with texts of their own ask for rows as well.
        clip.tokenize = partial(_random_rows, clip)  # type: ignore[method-assign]
        clip.unknown_words = lambda texts: ()  # type: ignore[method-assign]
    return clip, reference.eval()


@contextmanager
def _shrunk(name: str, config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Mapping[str, Any] | None, Any]]:
    text = {**config["text_cfg"], "width": _WIDTH, "heads": _HEADS, "layers": _LAYERS}
    if text.get("hf_tokenizer_name"):
        text["vocab_size"] = _VOCABULARY
    repository = text.get("hf_model_name")
    text_model = small_text_model(str(repository)) if repository else None
    kind: Any = open_clip.CustomTextCLIP if config.get("custom_text") or repository else open_clip.CLIP
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    if "multimodal_cfg" in config:
        kind = CoCa
        size = {"width": _WIDTH, "heads": _HEADS, "layers": 1, "attn_pooler_heads": _HEADS}
        arguments["multimodal_cfg"] = {**config["multimodal_cfg"], **size}
    replaced: Any = without_weights(name, text_model) if text_model else nullcontext({})
    with shrunk_image(config["vision_cfg"]) as vision, replaced as local:
        small = {**config, "embed_dim": _WIDTH, "vision_cfg": vision, "text_cfg": text}
        arguments |= {"embed_dim": _WIDTH, "vision_cfg": vision, "text_cfg": {**text, **local}}
        yield small, text_model, lambda: kind(**arguments)


@torch.no_grad()
def _randomise(model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not name.startswith("logit_"):
            value.add_(torch.randn_like(value), alpha=0.1)
            if name.endswith("running_var"):
                value.abs_()


def example_tokens(clip: CLIPEncoder, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token rows of different texts by our tokenizer and by open_clip's.

    A tokenizer that needs files is left out: the rows are those of the copy's stand-in.
    """
    length = clip.tokenizer.context_length
    if isinstance(clip.tokenizer, BytePairTokenizer):
        return clip.tokenize(texts), SimpleTokenizer(context_length=length)(list(texts))
    rows = clip.tokenize(texts)
    return rows, rows


def _random_rows(clip: CLIPEncoder, texts: Sequence[str]) -> Tensor:
    """Token rows (n, context length) that depend on each text alone, with the tower's end token and padding."""
    length = clip.tokenizer.context_length
    rows = torch.ones(len(texts), length, dtype=torch.long)
    for row, text in zip(rows, texts, strict=True):
        end = min(len(text.split()), length - 1)
        generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
        row[:end] = torch.randint(5, _VOCABULARY, (end,), generator=generator)
        row[end] = int(getattr(clip.model, "text_eos_id", 2))
    return rows


def original_embeddings(reference: Any, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Unit-length image (B, D) and text embeddings (n, D) by open_clip's own forward."""
    return reference.encode_image(pixels, normalize=True), reference.encode_text(tokens, normalize=True)
