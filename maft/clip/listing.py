"""A CLIP of open_clip's list at its full size, without memory and without fetching anything."""

from __future__ import annotations

from maft.clip.encoder import CLIPEncoder
from maft.clip.hub import cached_file
from maft.clip.loading import clip_from_config
from maft.clip.shrinking import clip_config, small_text_model
from maft.files import read_json


def described_clip(name: str) -> tuple[CLIPEncoder, bool]:
    """The CLIP on the meta device, and whether its text tower is the real one.

    A text tower of the transformers library whose description is not in the cache is a small one of its kind.

    Raises:
        UserError: the name is not listed, or a tower is of a kind that is not supported.
    """
    config, text_model, known = clip_config(name), None, True
    if repository := config["text_cfg"].get("hf_model_name"):
        file = cached_file(repository, "config.json")
        known = file is not None
        text_model = read_json(file) if file else small_text_model(repository)
    quick_gelu = bool(config.get("quick_gelu"))
    return clip_from_config(name, config, quick_gelu=quick_gelu, text_model=text_model, device="meta"), known
