"""MAFT's stage 2: the student's pass over proposals and whole images in one, against one pass for each."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.inputs import random_mask_logits
from benchmarks.measure import Comparison, Form, compare
from maft.classifiers.ip_clip import IPCLIP
from maft.clip import CLIPEncoder, load_clip
from maft.structures import Images, Proposals


def run(
    device: torch.device,
    repeats: int,
    *,
    clip: CLIPEncoder | None = None,
    queries: int = 100,
    size: int = 480,
    start_layer: int = 8,
) -> list[Comparison]:
    """Forward and backward of IP-CLIP on one ``size`` x ``size`` image; default tower: ViT-B/16 with random weights."""
    shared = (load_clip("ViT-B-16", "random") if clip is None else clip).to(device)
    draws = torch.Generator().manual_seed(0)
    images = Images((torch.rand(1, 3, size, size, generator=draws) * 255).to(device), [(size, size)])
    proposals = Proposals(random_mask_logits(queries, (size // 4, size // 4))[None].to(device), images.padded_size)
    student = IPCLIP(shared, start_layer=start_layer, input_size=size).train()
    trained = list(student.trainable_parameters())
    student.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)

    def gradients(rows: Tensor, whole: Tensor) -> tuple[Tensor, ...]:
        loss = rows.square().mean() + whole.square().mean()
        return rows.detach(), whole.detach(), *torch.autograd.grad(loss, trained)

    def together() -> tuple[Tensor, ...]:
        rows, whole = student.embed_with_images(images, proposals, shared)
        return gradients(rows.embeddings, whole)

    def apart() -> tuple[Tensor, ...]:
        return gradients(student.embed(images, proposals, shared).embeddings, student.encode_image(images, shared))

    forms = [
        Form("the first blocks once", together),
        Form("one pass for proposals, one for the image", apart, tolerance=1e-4),
    ]
    setting = f"{shared.name}, {size}x{size}, {queries} proposals, forward and backward"
    return [compare("stage2", setting, forms, device, repeats)]
