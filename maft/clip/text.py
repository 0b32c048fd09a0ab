"""What differs between text towers: CLIP's own transformer, CoCa's, and those of the transformers library."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from open_clip.hf_configs import arch_dict
from open_clip.hf_model import HFTextEncoder
from torch import Tensor, nn

from maft.clip.hub import HUB, hub_file
from maft.clip.tokenizers import EXTRA
from maft.errors import UserError
from maft.files import read_json

# A bound on memory; as many on any device, so that a text's embedding is the same wherever it is encoded.
TEXTS_PER_BATCH = 128


def text_tower(model: Any) -> Any:
    """The text tower of an ``open_clip`` model; that of a plain CLIP is the model itself."""
    return getattr(model, "text", model)


def text_width(model: Any) -> int:
    """Width of the text transformer."""
    tower = text_tower(model)
    if isinstance(tower, HFTextEncoder):
        return int(getattr(tower.config, arch_dict[tower.config.model_type]["config_names"]["width"]))
    return int(tower.ln_final.weight.shape[0])


def joint_width(model: Any) -> int:
    """D, width of the joint space, as the text tower ends."""
    tower = text_tower(model)
    if isinstance(tower, HFTextEncoder):
        return int(tower.output_dim)
    projection = tower.text_projection
    if projection is None:
        return text_width(model)
    return int(getattr(projection, "out_features", None) or projection.shape[1])


def check_rows(model: Any, rows: Tensor) -> None:
    """Refuses token ids that the text tower of ``model`` would read wrongly.

    Raises:
        UserError: an id lies outside the tower's vocabulary, or a row lacks the id where the tower reads its embedding.
    """
    if rows.numel() == 0:
        return
    size = int(model.vocab_size)
    if int(rows.max()) >= size:
        raise UserError(
            f"The tokenizer made the token {int(rows.max())}, and the text tower knows {size}: it is another tower's "
            "tokenizer; put the tower's own (tokenizer.json) beside open_clip_config.json, or correct "
            "text_cfg.hf_tokenizer_name there."
        )
    end = getattr(text_tower(model), "eos_id", getattr(model, "text_eos_id", -1))
    if _pool_type(model) == "eos" and not rows.eq(int(end)).any(1).all():
        raise UserError(
            f"The text tower reads a text at its end token {end}, which the tokenizer did not write: it is another "
            "tower's tokenizer; correct text_cfg.hf_tokenizer_name in open_clip_config.json or the files beside it."
        )


def require_causal(model: Any, name: str, purpose: str) -> None:
    """Raises `UserError` unless the tower is CLIP's: causal attention, and a text is read at its end token.

    Args:
        name: of the CLIP, for messages.
        purpose: the beginning of the sentence.
    """
    if reason := _reads_behind_the_end(model):
        raise UserError(
            f"{purpose} does not work with the text tower of CLIP {name}: {reason}; choose OpenAI's or a like."
        )


def _reads_behind_the_end(model: Any) -> str:
    """Why the embedding of a text may depend on what stands behind its end token; empty where it cannot."""
    tower = text_tower(model)
    if getattr(tower, "attn_mask", None) is None or getattr(tower, "cls_emb", None) is not None:
        return "its attention is not causal"
    if _pool_type(model) not in ("argmax", "eos"):
        return "it does not read a text at its end token"
    return ""


def _pool_type(model: Any) -> str:
    return str(getattr(text_tower(model), "pool_type", getattr(model, "text_pool_type", "")))


def ends(model: Any, tokens: Tensor) -> Tensor:
    """Position (n,) of the token that a causal tower reads a text's embedding at, of token ids (n, context length)."""
    if _pool_type(model) == "eos":
        end = getattr(text_tower(model), "eos_id", getattr(model, "text_eos_id", -1))
        return tokens.eq(int(end)).int().argmax(1)
    return tokens.argmax(1)


def encode(model: Any, tokens: Tensor, device: torch.device) -> Tensor:
    """Embeddings (n, D), not normalised, of token ids (n, context length).

    Equal rows are encoded once, and rows of like lengths together. No token sees one behind it where attention is
    causal: a tower that is so and reads a text at its end token is given no more columns than the longest text of a
    batch fills; any other is given its whole context.

    Args:
        tokens: on the CPU no length has to be waited for.
        device: the tower's.
    """
    if not len(tokens):
        return model.encode_text(tokens.to(device))
    distinct, place = tokens.unique(dim=0, return_inverse=True)
    order = ends(model, distinct).argsort(stable=True)
    one = _encode_whole if _reads_behind_the_end(model) else _encode_to_the_end
    rows = torch.cat([one(model, batch, device) for batch in distinct[order].split(TEXTS_PER_BATCH)])
    return rows[order.argsort()[place].to(device)]


def _encode_whole(model: Any, tokens: Tensor, device: torch.device) -> Tensor:
    return model.encode_text(tokens.to(device))


def _encode_to_the_end(model: Any, tokens: Tensor, device: torch.device) -> Tensor:
    end = ends(model, tokens)
    shown = tokens[:, : int(end.max()) + 1].to(device)
    return encode_embedded(model, text_tower(model).token_embedding(shown), end.to(device))


def encode_embedded(model: Any, embedded: Tensor, end: Tensor) -> Tensor:
    """What a causal tower makes of token embeddings, (n, L, W) and the position of each end token -> (n, D)."""
    tower = text_tower(model)
    length, kind = embedded.shape[1], tower.transformer.get_cast_dtype()
    tokens = embedded.to(kind) + tower.positional_embedding[:length].to(kind)
    tokens = tower.ln_final(tower.transformer(tokens, attn_mask=tower.attn_mask[:length, :length]))
    pooled = tokens.gather(1, end[:, None, None].expand(-1, 1, tokens.shape[2]))[:, 0]
    projection = tower.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection


def huggingface_config(name: str, repository: str, folder: Path | None = None) -> Mapping[str, Any]:
    """``config.json`` of the model that the text tower of CLIP ``name`` is built from.

    Args:
        folder: the CLIP's own, which may hold it as ``text_config.json``.

    Raises:
        UserError: it is not at hand and cannot be downloaded, or is no JSON object.
    """
    file = folder / "text_config.json" if folder else None
    if file is None or not file.is_file():
        place = f", or put it at {file}" if file else ""
        purpose = f"the description of the text tower of CLIP {name}"
        advice = f"fetch {HUB}/{repository}/resolve/main/config.json (hf download {repository} config.json){place}"
        file = hub_file(repository, ["config.json"], purpose, advice)
    try:
        described = read_json(file)
        if not isinstance(described, dict):
            raise ValueError("it is no object")
        return described
    except (ValueError, OSError) as error:
        raise UserError(f"{file} is not a model description of the transformers library ({error}).") from error


@contextmanager
def without_weights(name: str, described: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What a ``text_cfg`` needs for a text tower of the transformers library to be built without fetching anything.

    Args:
        name: of the CLIP, for messages.
        described: see `huggingface_config`.

    Raises:
        UserError: the library is missing, or the model is of a kind that open_clip does not know.
    """
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise UserError(f"The text tower of CLIP {name} needs the transformers package: {EXTRA}.") from error
    if described.get("model_type") not in arch_dict:
        raise UserError(
            f"The text tower of CLIP {name} is a {described.get('model_type')!r} model; the known kinds are: "
            f"{', '.join(arch_dict)}."
        )
    # No code of the model's own, and float32 whatever its weights were stored in.
    plain = {key: value for key, value in described.items() if key not in ("auto_map", "torch_dtype", "dtype")}
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(plain), encoding="utf-8")
        yield {"hf_model_name": folder, "hf_model_pretrained": False}
