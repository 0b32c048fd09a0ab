"""IP-CLIP: one pass for all proposals, against the image alone, a masked joint sequence and one crop per proposal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.inputs import random_mask_logits, random_texts
from benchmarks.measure import Comparison, Form, compare
from maft.classifiers.ip_clip import IPCLIP
from maft.classifiers.masked_crops import MaskedCrops
from maft.clip import CLIPEncoder, load_clip
from maft.structures import Images, Proposals


@torch.no_grad()
def run(
    device: torch.device,
    repeats: int,
    *,
    clip: CLIPEncoder | None = None,
    queries: int = 100,
    size: int = 480,
    start_layer: int = 8,
) -> list[Comparison]:
    """``queries`` proposals of one ``size`` x ``size`` image; default tower: ViT-B/16 with random weights."""
    clip = (load_clip("ViT-B-16", "random") if clip is None else clip).to(device)
    draws = torch.Generator().manual_seed(0)
    images = Images((torch.rand(1, 3, size, size, generator=draws) * 255).to(device), [(size, size)])
    masks = random_mask_logits(queries, (size // 4, size // 4))[None].to(device)
    proposals = Proposals(masks, images.padded_size)
    texts = random_texts(171, clip.embed_dim)
    texts.embeddings, texts.row_class = texts.embeddings.to(device), texts.row_class.to(device)
    classifier = IPCLIP(clip, start_layer=start_layer, input_size=size, train="none").eval()
    crops = MaskedCrops(clip).eval()
    tower: Any = clip.tower

    def ours() -> Tensor:
        embeddings = classifier(images, proposals, texts, clip).embeddings
        assert embeddings is not None
        return embeddings

    def joint() -> Tensor:
        pixels = classifier.prepare(images, clip)
        tokens, grid = tower.tokens(pixels, start_layer, align_corners=True)
        visible = classifier.visible_patches(images, proposals, grid)
        embeddings = tower.project(tower.class_rows_by_definition(tokens, grid, visible, start_layer))
        texts.logits(embeddings)
        return embeddings

    forms = [
        Form(f"IP-CLIP, {queries} proposals", ours),
        Form("class rows and patches in one masked sequence", joint, tolerance=1e-4),
        Form("the image alone", lambda: classifier.encode_image(images, clip)),
        Form(f"{queries} masked crops", lambda: crops(images, proposals, texts, clip).logits, least_ratio=5.0),
    ]
    return [compare("ip-clip", f"{clip.name}, {size}x{size}", forms, device, repeats)]
