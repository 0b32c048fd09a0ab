"""Functions that run a stock open_clip VisionTransformer piece by piece, on any token grid.

Nothing here owns parameters: the tower stays open_clip's, so its checkpoints load unchanged.
Shape letters: B images, N class rows, P = gh * gw patches, W tower width, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maft.errors import UserError

Grid = tuple[int, int]


def require_plain_vit(visual: nn.Module, purpose: str) -> VisionTransformer:
    """The tower itself when it is a CLIP ViT with a class token and plain attention blocks.

    Raises:
        UserError: it is another kind of tower; ``purpose`` begins the sentence.
    """
    plain = (
        isinstance(visual, VisionTransformer)
        and visual.pool_type == "tok"
        and visual.attn_pool is None
        and not visual.final_ln_after_pool
        and all(type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks)
    )
    if not plain:
        raise UserError(
            f"{purpose} needs a CLIP ViT with a class token, and MODEL.CLIP is a {type(visual).__name__} tower: "
            "choose a ViT such as ViT-B-16 or ViT-L-14."
        )
    return visual


def resize_position_embedding(
    position: Tensor, native: Grid, grid: Grid, *, align_corners: bool = False, mode: str = "bicubic"
) -> Tensor:
    """Position embedding (1 + native patches, W) resized to another grid: (1 + P, W).

    The class row is kept. MAFT resizes with ``align_corners=True``, open_clip and OVSeg without.
    """
    if grid == native:
        return position
    patches = position[1:].reshape(1, *native, -1).permute(0, 3, 1, 2)
    # Half precision has no bicubic kernel on every device.
    patches = F.interpolate(patches.float(), size=grid, mode=mode, align_corners=align_corners)
    patches = patches.to(position.dtype).flatten(2)[0].transpose(0, 1)
    return torch.cat([position[:1], patches])


def patch_tokens(visual: VisionTransformer, pixels: Tensor) -> tuple[Tensor, Grid]:
    """Patch convolution of normalised pixels (B, 3, h, w): tokens (B, P, W), row-major, and the grid (gh, gw)."""
    patches = visual.conv1(pixels)
    return patches.flatten(2).transpose(1, 2), (patches.shape[-2], patches.shape[-1])


def add_class_and_position(
    visual: VisionTransformer, patches: Tensor, grid: Grid, *, align_corners: bool = False
) -> Tensor:
    """Class token in front, position embedding for ``grid``, first LayerNorm: (B, P, W) -> (B, 1 + P, W)."""
    native = (int(visual.grid_size[0]), int(visual.grid_size[1]))
    position = resize_position_embedding(visual.positional_embedding, native, grid, align_corners=align_corners)
    # Not cast to the patches' type: under autocast the residual stream stays in float32.
    token = visual.class_embedding.expand(patches.shape[0], 1, -1)
    return visual.ln_pre(torch.cat([token, patches], dim=1) + position)


def embed_patches(visual: VisionTransformer, pixels: Tensor, *, align_corners: bool = False) -> tuple[Tensor, Grid]:
    """Everything before the first block: normalised pixels (B, 3, h, w) -> tokens (B, 1 + P, W) and the grid."""
    patches, grid = patch_tokens(visual, pixels)
    return add_class_and_position(visual, patches, grid, align_corners=align_corners), grid


def run_block(block: ResidualAttentionBlock, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
    """One residual block on (B, L, W) tokens with fused attention.

    Args:
        bias: added to the attention logits, or boolean (True = may attend); broadcastable to (B, heads, L, L).
    """
    query, key, value = attention_inputs(block, tokens)
    return finish_block(block, tokens, F.scaled_dot_product_attention(query, key, value, attn_mask=bias))


def run_blocks(
    visual: VisionTransformer, tokens: Tensor, first: int = 0, last: int | None = None, *, checkpointing: bool = False
) -> Tensor:
    """Blocks ``first`` to ``last`` (exclusive; default: all) on (B, L, W) tokens, without masks."""
    for block in visual.transformer.resblocks[first:last]:
        tokens = maybe_checkpoint(checkpointing, run_block, block, tokens)
    return tokens


def project_tokens(visual: VisionTransformer, tokens: Tensor) -> Tensor:
    """Last LayerNorm and projection to the joint space: (..., W) -> (..., D), not normalised."""
    return visual.ln_post(tokens) @ visual.proj


def encode_vit(visual: VisionTransformer, pixels: Tensor, *, align_corners: bool = False) -> Tensor:
    """Image embeddings (B, D), not normalised, of normalised pixels (B, 3, h, w) of any size."""
    tokens, _ = embed_patches(visual, pixels, align_corners=align_corners)
    return project_tokens(visual, run_blocks(visual, tokens)[:, 0])


def attention_inputs(block: ResidualAttentionBlock, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of normalised tokens: (B, L, W) -> three of (B, heads, L, W / heads)."""
    batch, length, width = tokens.shape
    heads = block.attn.num_heads
    projected = F.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias)
    query, key, value = projected.view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    return query, key, value


def finish_block(block: ResidualAttentionBlock, tokens: Tensor, attended: Tensor) -> Tensor:
    """What a block does after its attention (B, heads, L, W / heads): output projection and MLP, both residual."""
    tokens = tokens + block.ls_1(block.attn.out_proj(attended.transpose(1, 2).flatten(2)))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


def maybe_checkpoint(enabled: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, when enabled recomputed in the backward pass instead of kept in memory."""
    if enabled and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False)
    return function(*arguments)
