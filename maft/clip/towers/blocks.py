"""Transformer blocks of open_clip and timm, taken apart around their attention, which masks and class rows replace.

Shape letters: B images, L tokens, W tower width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from timm.layers import apply_rot_embed_cat
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maft.layers.recomputing import takes_apart
from maft.layers.token_parts import by_parts


def is_supported(block: nn.Module) -> bool:
    """Whether the functions of this module know what the block does."""
    if type(block) is ResidualAttentionBlock:
        return True
    attention: Any = getattr(block, "attn", None)
    return (
        type(block) in (Block, EvaBlock, EvaBlockPostNorm)
        and type(attention).__name__ in ("Attention", "EvaAttention", "AttentionRope")
        and getattr(attention, "gate", None) is None
        and getattr(attention, "num_kv_groups", 1) == 1
    )


def attention_inputs(block: nn.Module, tokens: Tensor, rotation: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of tokens: (B, L, W) -> three of (B, heads, L, W / heads).

    Args:
        rotation: sines and cosines of the rotary position embedding of the last tokens, one row each, of all images or
            of each; no token before them is rotated.
    """
    if isinstance(block, ResidualAttentionBlock):
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        return _split(F.linear(block.ln_1(tokens), weight, bias), block.attn.num_heads)
    attention: Any = block.attn
    normalised = tokens if isinstance(block, EvaBlockPostNorm) else block.norm1(tokens)  # type: ignore[operator]
    if attention.qkv is None:
        parts = (attention.q_proj(normalised), attention.k_proj(normalised), attention.v_proj(normalised))
        query, key, value = (_heads(part, attention.num_heads) for part in parts)
    else:
        bias = attention.qkv.bias
        if getattr(attention, "q_bias", None) is not None:
            bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        query, key, value = _split(F.linear(normalised, attention.qkv.weight, bias), attention.num_heads)
    query, key = attention.q_norm(query), attention.k_norm(key)
    if rotation is not None:
        half = getattr(attention, "rotate_half", False)
        query, key = (_rotated(part, rotation, half).type_as(value) for part in (query, key))
    return query, key, value


def attention_output(block: nn.Module, attended: Tensor) -> Tensor:
    """What a block adds to tokens for its attention (B, heads, L, W / heads): its output projection, (B, L, W)."""
    attended, inner = attended.transpose(1, 2).flatten(2), cast(Any, block)
    if isinstance(block, ResidualAttentionBlock):
        return inner.ls_1(inner.attn.out_proj(attended))
    attended = inner.attn.proj(inner.attn.norm(attended))
    if isinstance(block, EvaBlockPostNorm):
        attended = inner.norm1(attended)
    elif isinstance(block, EvaBlock):
        attended = _scaled(attended, inner.gamma_1)
    else:
        attended = inner.ls1(attended)
    return inner.drop_path1(attended)


def mlp_output(block: nn.Module, tokens: Tensor) -> Tensor:
    """What a block adds to tokens (..., L, W) for its MLP."""
    inner: Any = block
    if isinstance(block, ResidualAttentionBlock):
        return inner.ls_2(by_parts(lambda part: inner.mlp(inner.ln_2(part)), tokens))
    if isinstance(block, EvaBlockPostNorm):
        return inner.drop_path2(inner.norm2(by_parts(inner.mlp, tokens)))
    added = by_parts(lambda part: inner.mlp(inner.norm2(part)), tokens)
    if isinstance(block, EvaBlock):
        return inner.drop_path2(_scaled(added, inner.gamma_2))
    return inner.drop_path2(inner.ls2(added))


def finish_block(block: nn.Module, tokens: Tensor, attended: Tensor) -> Tensor:
    """What a block does after its attention (B, heads, L, W / heads): output projection and MLP, both residual."""
    tokens = tokens + attention_output(block, attended)
    return tokens + mlp_output(block, tokens)


@takes_apart
def run_block(block: nn.Module, tokens: Tensor, rotation: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """One residual block on (B, L, W) tokens with fused attention.

    Args:
        rotation: as for `attention_inputs`.
        mask: added to the attention logits, or boolean (True = may attend); broadcastable to (B, heads, L, L).
    """
    query, key, value = attention_inputs(block, tokens, rotation)
    return finish_block(block, tokens, F.scaled_dot_product_attention(query, key, value, attn_mask=mask))


@takes_apart
def run_block_for_first(block: nn.Module, tokens: Tensor, rotation: Tensor | None = None) -> Tensor:
    """`run_block` of (B, L, W) tokens of which nothing but the first is read on: (B, W)."""
    query, key, value = attention_inputs(block, tokens, rotation)
    attended = F.scaled_dot_product_attention(query[:, :, :1], key, value)
    return finish_block(block, tokens[:, :1], attended)[:, 0]


def maybe_checkpoint(enabled: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, when enabled recomputed in the backward pass instead of kept in memory."""
    if enabled and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False)
    return function(*arguments)


def _split(projected: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, L, 3 W) -> three of (B, heads, L, W / heads)."""
    query, key, value = projected.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return query, key, value


def _heads(projected: Tensor, heads: int) -> Tensor:
    return projected.unflatten(2, (heads, -1)).transpose(1, 2)


def _rotated(part: Tensor, rotation: Tensor, half: bool) -> Tensor:
    first = part.shape[2] - rotation.shape[-2]
    options = {"half": True} if half else {}
    return torch.cat([part[:, :, :first], apply_rot_embed_cat(part[:, :, first:], rotation, **options)], dim=2)


def _scaled(values: Tensor, scale: Tensor | None) -> Tensor:
    return values if scale is None else scale * values
