"""CLIP's ResNets, whose attention pool asks with the mean feature of the image.

Shape letters: B images, Q masks, C channels of the last stage, D joint embedding, (h, w) its grid.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.clip.towers.base import ImageTower, Refusals
from maft.clip.towers.maps import STAGES, MeanOfMapTower
from maft.clip.towers.sequences import resize_position_embedding


class ResNetTower(ImageTower):
    """A ResNet with CLIP's attention pool (FC-CLIP with ResNet towers).

    Dense features are its last stage; at a single position the attention of the pool is its value.
    """

    kind = "attention pool"
    refusals: ClassVar[Refusals] = {
        "proposal masks": "a mask could only act in its pool, which is what the classifier MaskPooling does: use that "
        "one, or choose a ViT such as ViT-B-16",
        "mask prompts": MeanOfMapTower.refusals["mask prompts"],
    }
    head_names = ("attnpool.",)

    @property
    def dense_channels(self) -> int:
        return self.pyramid_channels()["res5"]

    def pyramid_channels(self) -> dict[str, int]:
        stem = int(self.visual.conv3.out_channels)
        return {"stem": stem, **{name: 4 * stem * 2**level for level, name in enumerate(STAGES)}}

    def encode(self, pixels: Tensor, *, align_corners: bool = False) -> Tensor:
        return self._attend(self.dense_features(pixels)["dense"], None)[:, 0]

    def dense_features(self, pixels: Tensor) -> dict[str, Tensor]:
        resnet: Any = self.visual
        maps = resnet.act1(resnet.bn1(resnet.conv1(pixels)))
        maps = resnet.act2(resnet.bn2(resnet.conv2(maps)))
        features = {"stem": resnet.act3(resnet.bn3(resnet.conv3(maps)))}
        maps = resnet.avgpool(features["stem"])
        for name, stage in zip(STAGES, (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4), strict=True):
            maps = features[name] = stage(maps)
        features["dense"] = maps
        return features

    def project_pooled(self, vectors: Tensor) -> Tensor:
        pool = self.visual.attnpool
        return pool.c_proj(pool.v_proj(vectors))

    def pool_masks(self, features: Tensor, inside: Tensor) -> Tensor:
        flat = inside.flatten(2)
        # A mask without any position sees the whole image.
        return self._attend(features, (flat | ~flat.any(-1, keepdim=True))[:, None])

    def pool_biased(self, features: Tensor, bias: Tensor) -> Tensor:
        """The attention pool under additive logits (B, heads, Q, P) of the positions (MaskCLIP++).

        The position embedding is resized bicubically with ``align_corners=True``.

        Args:
            features: (B, C, h, w), the "dense" features.

        Returns:
            (B, Q, D), not normalised.
        """
        return self._attend(features, bias, mode="bicubic", align_corners=True)

    def _attend(
        self, features: Tensor, mask: Tensor | None, *, mode: str = "bilinear", align_corners: bool = False
    ) -> Tensor:
        """The attention pool, once per row of a mask.

        The query is the mean feature of the image. Its position embedding is resized as the options say.

        Args:
            features: (B, C, h, w), the "dense" features.
            mask: (B, 1 or heads, Q, P), the positions that a query sees (bool) or what is added to their logits; None
                pools as CLIP does, with the mean feature among the keys.

        Returns:
            (B, Q or 1, D).
        """
        pool = self.visual.attnpool
        tokens = features.flatten(2).transpose(1, 2)
        side = math.isqrt(pool.positional_embedding.shape[0] - 1)
        position = resize_position_embedding(
            pool.positional_embedding,
            (side, side),
            (features.shape[-2], features.shape[-1]),
            mode=mode,
            align_corners=align_corners,
        ).to(tokens.dtype)
        query = tokens.mean(1, keepdim=True) + position[:1]
        keys = tokens + position[1:]
        if mask is None:
            keys = torch.cat([query, keys], dim=1)
        else:
            query = query.expand(-1, mask.shape[2], -1)

        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(2, (pool.num_heads, projected.shape[2] // pool.num_heads)).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            heads(pool.q_proj(query)), heads(pool.k_proj(keys)), heads(pool.v_proj(keys)), attn_mask=mask
        )
        return pool.c_proj(attended.transpose(1, 2).flatten(2))
