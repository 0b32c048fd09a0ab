"""Dense features of convolutional CLIP towers and their projection to the joint space (FC-CLIP).

Shape letters: B images, Q masks, C channels of the last stage, D joint embedding, (h, w) its grid (stride 32).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from maft.clip.vit import resize_position_embedding
from maft.errors import UserError

STAGES = ("res2", "res3", "res4", "res5")


def is_convnext(visual: object) -> bool:
    """Whether the tower is a timm ConvNeXt inside open_clip's adaptor."""
    return isinstance(visual, TimmModel) and type(visual.trunk).__name__ == "ConvNeXt"


def dense_channels(visual: Any) -> dict[str, int]:
    """Channels of "stem", "res2".."res5" and "dense"."""
    if is_convnext(visual):
        stages = [int(info["num_chs"]) for info in visual.trunk.feature_info]
        stem = stages[0]
    else:
        stem = _resnet(visual).conv3.out_channels
        stages = [4 * stem * 2**level for level in range(4)]
    return {"stem": stem, **dict(zip(STAGES, stages, strict=True)), "dense": stages[-1]}


def dense_features(visual: Any, pixels: Tensor) -> dict[str, Tensor]:
    """Feature maps of normalised pixels (B, 3, H, W).

    Returns:
        "stem" (stride 4, or 2 for a ResNet), "res2".."res5" (strides 4, 8, 16, 32) and "dense", what the tower's
        head receives (stride 32).

    Raises:
        UserError: the tower is a ViT.
    """
    features: dict[str, Tensor] = {}
    if is_convnext(visual):
        trunk = visual.trunk
        maps = features["stem"] = trunk.stem(pixels)
        stages = trunk.stages
    else:
        resnet = _resnet(visual)
        maps = resnet.act1(resnet.bn1(resnet.conv1(pixels)))
        maps = resnet.act2(resnet.bn2(resnet.conv2(maps)))
        maps = features["stem"] = resnet.act3(resnet.bn3(resnet.conv3(maps)))
        maps = resnet.avgpool(maps)
        stages = [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]
    for name, stage in zip(STAGES, stages, strict=True):
        maps = features[name] = stage(maps)
    features["dense"] = visual.trunk.norm_pre(maps) if is_convnext(visual) else maps
    return features


def project_pooled(visual: Any, vectors: Tensor) -> Tensor:
    """The tower's head on pooled vectors (..., C) -> (..., D), not normalised.

    A ResNet's attention pool over a single position is its value and output projection.
    """
    if is_convnext(visual):
        norm = visual.trunk.head.norm
        if isinstance(norm, nn.LayerNorm):
            vectors = F.layer_norm(vectors, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return visual.head(vectors)
    pool = _resnet(visual).attnpool
    return pool.c_proj(pool.v_proj(vectors))


def project_dense(visual: Any, features: Tensor, *, rows_in_memory_order: bool = False) -> Tensor:
    """The tower's head at every pixel of dense features: (B, C, h, w) -> (B, D, h, w), not normalised.

    Args:
        rows_in_memory_order: MAFT+'s reshape, which cuts the channel-first tensor into rows of C consecutive
            elements, mixing positions and channels. Its released weights were trained with it.
    """
    batch, channels, height, width = features.shape
    rows = features.reshape(batch, height, width, channels) if rows_in_memory_order else features.permute(0, 2, 3, 1)
    return project_pooled(visual, rows).permute(0, 3, 1, 2).contiguous()


def attention_pool(visual: Any, features: Tensor, visible: Tensor | None = None) -> Tensor:
    """A ResNet's attention pool, once per mask (FC-CLIP with ResNet towers).

    The query is the mean feature of the image; it attends to the positions a mask shows. The position embedding is
    resized bilinearly (``align_corners=False``) to the grid.

    Args:
        features: (B, C, h, w), the "dense" features.
        visible: (B, Q, h, w) bool; a mask without any position sees the whole image. None pools as CLIP does,
            with the mean feature among the keys.

    Returns:
        (B, Q, D), or (B, D) without masks.
    """
    pool = _resnet(visual).attnpool
    tokens = features.flatten(2).transpose(1, 2)
    side = math.isqrt(pool.positional_embedding.shape[0] - 1)
    position = resize_position_embedding(
        pool.positional_embedding, (side, side), (features.shape[-2], features.shape[-1]), mode="bilinear"
    ).to(tokens.dtype)
    query = tokens.mean(1, keepdim=True) + position[:1]
    keys = tokens + position[1:]
    mask = None
    if visible is None:
        keys = torch.cat([query, keys], dim=1)
    else:
        flat = visible.flatten(2)
        mask = (flat | ~flat.any(-1, keepdim=True))[:, None]
        query = query.expand(-1, flat.shape[1], -1)

    def heads(projected: Tensor) -> Tensor:
        return projected.unflatten(2, (pool.num_heads, projected.shape[2] // pool.num_heads)).transpose(1, 2)

    attended = F.scaled_dot_product_attention(
        heads(pool.q_proj(query)), heads(pool.k_proj(keys)), heads(pool.v_proj(keys)), attn_mask=mask
    )
    pooled = pool.c_proj(attended.transpose(1, 2).flatten(2))
    return pooled[:, 0] if visible is None else pooled


def _resnet(visual: Any) -> ModifiedResNet:
    if not isinstance(visual, ModifiedResNet):
        raise UserError(
            f"Dense CLIP features need a convolutional tower, and MODEL.CLIP is a {type(visual).__name__}: "
            "choose a ConvNeXt such as convnext_large_d_320 or a ResNet such as RN50."
        )
    return visual
