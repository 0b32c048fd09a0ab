"""Class names under prompt templates: prompts cut to their end, against the whole context of the text tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Comparison, Form, compare
from maft.clip import CLIPEncoder, load_clip
from maft.clip.vocabulary import prompt_templates

# Lengths as in the 847 classes of ADE20K, the synonyms of most of which are written out.
_NAMES = ("wall", "traffic light", "chest of drawers, chest, bureau, dresser", "streetlight, street lamp")


@torch.no_grad()
def run(
    device: torch.device,
    repeats: int,
    *,
    clip: CLIPEncoder | None = None,
    names: Sequence[str] = _NAMES,
    templates: str | Sequence[str] = "vild",
) -> list[Comparison]:
    """``names`` under every template; default tower: that of ViT-B/16 with random weights."""
    clip = (load_clip("ViT-B-16", "random") if clip is None else clip).to(device)
    patterns = prompt_templates(templates)
    prompts = [clip.tokenize([pattern.replace("{}", name) for pattern in patterns]) for name in names]

    def rows(encode: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([F.normalize(encode(tokens), dim=-1).mean(0) for tokens in prompts])

    forms = [
        Form("prompts cut to the longest", lambda: rows(clip.encode_text)),
        Form("the whole context of every prompt", lambda: rows(clip.encode_text_by_definition), tolerance=1e-5),
    ]
    setting = f"{clip.name}, {len(names)} names x {len(patterns)} templates"
    return [compare("prompts", setting, forms, device, repeats)]
