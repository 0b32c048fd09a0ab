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
from maft.clip.vit import embed_patches, project_tokens, run_block, run_blocks
from maft.structures import Images, Proposals


def joint_sequence(visual: Any, pixels: Tensor, visible: Tensor, start_layer: int) -> Tensor:
    """The definition (MAFT, section 3.2): class rows and patches in one sequence under one attention mask.

    Args:
        visual: a plain CLIP ViT.
        pixels: (B, 3, h, w) normalised.
        visible: (B, Q, P) bool, the patches of each proposal.

    Returns:
        (B, Q, D), not normalised.
    """
    tokens, _ = embed_patches(visual, pixels, align_corners=True)
    tokens = run_blocks(visual, tokens, 0, start_layer)
    batch, rows, patches = visible.shape
    allowed = torch.zeros(batch, 1, rows + patches, rows + patches, dtype=torch.bool, device=visible.device)
    allowed[:, 0, :rows, :rows] = torch.eye(rows, dtype=torch.bool, device=visible.device)
    allowed[:, 0, :rows, rows:] = visible
    allowed[:, 0, rows:, rows:] = True
    tokens = torch.cat([tokens[:, :1].expand(-1, rows, -1), tokens[:, 1:]], dim=1)
    for block in visual.transformer.resblocks[start_layer:]:
        tokens = run_block(block, tokens, allowed)
    return project_tokens(visual, tokens[:, :rows])


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
    classifier = IPCLIP(None, start_layer=start_layer, input_size=size, train="none").eval()
    crops = MaskedCrops(None, None, input_size=clip.image_size[0]).eval()

    def ours() -> Tensor:
        embeddings = classifier(images, proposals, texts, clip).embeddings
        assert embeddings is not None
        return embeddings

    def joint() -> Tensor:
        pixels = classifier.prepare(images, clip)
        side = size // clip.patch_size
        embeddings = joint_sequence(
            clip.visual, pixels, classifier.visible_patches(images, proposals, (side, side)), start_layer
        )
        texts.logits(embeddings)
        return embeddings

    forms = [
        Form(f"IP-CLIP, {queries} proposals", ours),
        Form("class rows and patches in one masked sequence", joint, tolerance=1e-4),
        Form("the image alone", lambda: classifier.encode_image(images, clip)),
        Form(f"{queries} masked crops", lambda: crops(images, proposals, texts, clip).logits),
    ]
    return [compare("ip-clip", f"{clip.name}, {size}x{size}", forms, device, repeats)]
