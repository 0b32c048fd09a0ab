"""Contrastive pretraining of a tiny CLIP on image-caption pairs.

With a softmax over the batch (Radford et al. 2021, section 2.3), or a sigmoid a pair (Zhai et al. 2023, SigLIP) for a
tower with a logit bias.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from open_clip.model import CLIP, CustomTextCLIP, set_model_preprocess_cfg
from torch import Tensor

from maft.miniature.tokenizer import WordTokenizer

TinyCLIP: TypeAlias = CLIP | CustomTextCLIP


@dataclass(frozen=True)
class PretrainingRecipe:
    """Everything that decides the weights, together with the pairs and the machine's arithmetic.

    Attributes:
        steps, batch_size, learning_rate, weight_decay: AdamW with a linear warm-up and a cosine decay to 0.
        patch_dropout: share of a ViT's patches left out of each training image (Li et al. 2023, FLIP).
    """

    steps: int = 320
    batch_size: int = 128
    learning_rate: float = 1.2e-3
    warmup_steps: int = 20
    weight_decay: float = 0.05
    patch_dropout: float = 0.0
    seed: int = 0


RECIPES = {
    "vit": PretrainingRecipe(patch_dropout=0.5),
    "convnext": PretrainingRecipe(learning_rate=2e-3),
    "siglip": PretrainingRecipe(patch_dropout=0.5),
}


def open_clip_config(architecture: str, tokenizer: WordTokenizer, image_size: int) -> dict[str, dict[str, Any]]:
    """``model_cfg`` and ``preprocess_cfg`` of a tiny CLIP; ``architecture`` is one of ``RECIPES``."""
    vision = {
        "vit": {"image_size": image_size, "patch_size": 8, "width": 128, "layers": 6, "head_width": 32},
        "convnext": {
            "image_size": image_size,
            "timm_model_name": "convnext_miniature",
            "timm_model_pretrained": False,
            # With the mean alone the background drowns small objects: zero-shot .25 instead of .68 on things.
            "timm_pool": "avgmax",
            "timm_proj": "linear",
        },
        "siglip": {
            "image_size": image_size,
            "timm_model_name": "vit_siglip_miniature",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
    }
    text = {"context_length": tokenizer.context_length, "vocab_size": tokenizer.vocab_size}
    model: dict[str, Any] = {
        "embed_dim": 128,
        "vision_cfg": vision[architecture],
        "text_cfg": text | {"width": 128, "heads": 4, "layers": 2},
    }
    std = 0.25
    if architecture == "siglip":
        model["text_cfg"] |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
        # The bias begins near the share of true pairs, one in a batch: of 128 here, of 32,000 in the paper (-10).
        model |= {"custom_text": True, "init_logit_scale": math.log(10), "init_logit_bias": -5.0}
        std = 0.5
    return {"model_cfg": model, "preprocess_cfg": {"size": image_size, "mean": [0.5] * 3, "std": [std] * 3}}


def build_untrained(config: Mapping[str, dict[str, Any]], recipe: PretrainingRecipe) -> TinyCLIP:
    """A CLIP of open_clip's with random weights, the recipe's patch dropout and the pixel statistics of ``config``."""
    import maft.miniature.towers  # noqa: F401 (registers the trunks of timm)

    torch.manual_seed(recipe.seed)
    arguments = dict(config["model_cfg"])
    model_class = CustomTextCLIP if arguments.pop("custom_text", False) else CLIP
    arguments["vision_cfg"] = arguments["vision_cfg"] | {"patch_dropout": recipe.patch_dropout}
    model = model_class(**arguments)
    set_model_preprocess_cfg(model, config["preprocess_cfg"])
    return model


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 have hardware of their own; elsewhere they are slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Autocast to ``dtype``; does nothing for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def normalise(model: TinyCLIP, images: Tensor) -> Tensor:
    """uint8 (n, 3, h, w) pixels to the float32 input of a tiny CLIP, by the pixel statistics it came with."""
    visual: Any = model.visual
    mean, std = (images.new_tensor(values, dtype=torch.float32) for values in (visual.image_mean, visual.image_std))
    return (images.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def train(
    model: TinyCLIP,
    images: Tensor,
    tokens: Tensor,
    recipe: PretrainingRecipe,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[float]:
    """Train in place, yielding the loss of each step.

    Args:
        images: (n, 3, h, w) uint8, n at least the batch size.
        tokens: (n, captions per image, context) int64; each visit of an image draws one of its captions.
    """
    model.to(device).train()
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_factor(step, recipe))
    contrast = ClipLoss() if model.logit_bias is None else SigLipLoss()
    generator = torch.Generator().manual_seed(recipe.seed)
    batches = _batches(len(images), recipe.batch_size, generator)
    for _ in range(recipe.steps):
        chosen = next(batches)
        captions = torch.randint(tokens.shape[1], (len(chosen),), generator=generator)
        flipped = torch.rand(len(chosen), generator=generator) < 0.5
        pixels = torch.where(flipped[:, None, None, None], images[chosen].flip(-1), images[chosen]).to(device)
        with autocast(device, dtype):
            # The embeddings and the logit scale, behind them a sigmoid's logit bias.
            loss = contrast(*model(normalise(model, pixels), tokens[chosen, captions].to(device)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            # CLIP's own guard against instability: a temperature of at least 0.01.
            model.logit_scale.clamp_(0, math.log(100))
        yield float(loss.detach())


def _learning_rate_factor(step: int, recipe: PretrainingRecipe) -> float:
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        order = torch.randperm(count, generator=generator)
        yield from (order[start : start + size] for start in range(0, count - size + 1, size))


@torch.no_grad()
def encode_images(model: TinyCLIP, images: Tensor, device: torch.device) -> Tensor:
    """(n, D) normalised embeddings of (n, 3, h, w) uint8 images, in float32."""
    model.to(device).eval()
    return torch.cat(
        [model.encode_image(normalise(model, part.to(device)), normalize=True) for part in images.split(256)]
    )


@torch.no_grad()
def encode_texts(model: TinyCLIP, tokens: Tensor, device: torch.device) -> Tensor:
    """(n, D) normalised embeddings of (n, context) token rows, in float32."""
    model.to(device).eval()
    return F.normalize(model.encode_text(tokens.to(device)), dim=-1)


def zero_shot_predictions(
    model: TinyCLIP, tokenizer: WordTokenizer, images: Tensor, names: Sequence[str], device: torch.device
) -> Tensor:
    """(n,) index of the name that fits each image best, by the prompt "a photo of a ..."."""
    texts = encode_texts(model, tokenizer([f"a photo of a {name}." for name in names]), device)
    return (encode_images(model, images, device) @ texts.T).argmax(-1).cpu()


def retrieval_recall(model: TinyCLIP, images: Tensor, tokens: Tensor, device: torch.device) -> float:
    """Share of images whose own caption is the nearest of all (recall at 1)."""
    scores = encode_images(model, images, device) @ encode_texts(model, tokens, device).T
    return (scores.argmax(-1) == torch.arange(len(images), device=scores.device)).float().mean().item()
