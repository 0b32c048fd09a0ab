"""Towers that make one embedding of the mean of their last feature map: ConvNeXt, FastViT (MobileCLIP) and Swin.

ViTamin, whose last stage works on tokens, has a feature pyramid like theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from maft.clip.towers.base import Grid, ImageTower, Refusals
from maft.clip.towers.mean_of_tokens import MeanOfTokensTower
from maft.clip.towers.tokens import TokenTower

STAGES = ("res2", "res3", "res4", "res5")


class MeanOfMapTower(ImageTower):
    """The mean of the last feature map is the image."""

    kind = "mean of a map"
    refusals: ClassVar[Refusals] = {
        "proposal masks": "a mask could only act in its mean, which is what the classifier MaskPooling does: use that "
        "one, or choose a ViT such as ViT-B-16",
        "mask prompts": TokenTower.refusals["mask prompts"],
    }
    head_names = ("trunk.head.", "head.")

    def __init__(self, visual: Any, name: str) -> None:
        super().__init__(visual, name)
        self.trunk: Any = visual.trunk

    @property
    def dense_channels(self) -> int:
        return int(self.trunk.num_features)

    def encode(self, pixels: Tensor, *, align_corners: bool = False) -> Tensor:
        return self.project_pooled(self.dense_features(pixels)["dense"].mean((-2, -1)))

    def pyramid_channels(self) -> dict[str, int]:
        channels = [int(info["num_chs"]) for info in self.trunk.feature_info[:4]]
        return {"stem": channels[0], **dict(zip(STAGES, channels, strict=True))}

    def project_pooled(self, vectors: Tensor) -> Tensor:
        return self.visual.head(self.trunk.head.fc(vectors))


class ConvNeXtTower(MeanOfMapTower):
    """A ConvNeXt; the norm of its head follows the pool."""

    def encode(self, pixels: Tensor, *, align_corners: bool = False) -> Tensor:
        return self.visual(pixels)

    def dense_features(self, pixels: Tensor) -> dict[str, Tensor]:
        features = _stages(self.trunk.stem(pixels), self.trunk.stages)
        features["dense"] = self.trunk.norm_pre(features["res5"])
        return features

    def project_pooled(self, vectors: Tensor) -> Tensor:
        norm = self.trunk.head.norm
        if isinstance(norm, nn.LayerNorm):
            vectors = F.layer_norm(vectors, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return self.visual.head(vectors)


class FastViTTower(MeanOfMapTower):
    """The FastViTs of MobileCLIP: four stages or five, and a convolution before the pool."""

    def __init__(self, visual: Any, name: str) -> None:
        super().__init__(visual, name)
        self.stride = 8 * 2 ** (len(self.trunk.stages) - 2)

    def dense_features(self, pixels: Tensor) -> dict[str, Tensor]:
        features = _stages(self.trunk.stem(pixels), self.trunk.stages[:4])
        maps = features["res5"]
        for stage in self.trunk.stages[4:]:
            maps = stage(maps)
        features["dense"] = self.trunk.final_conv(maps)
        return features


class SwinTower(MeanOfMapTower):
    """A Swin Transformer; windows at the border of an image of another size than the native one are padded."""

    def __init__(self, visual: Any, name: str) -> None:
        super().__init__(visual, name)
        for block in (block for stage in self.trunk.layers for block in stage.blocks):
            # timm otherwise keeps the masks of shifted windows for the native size.
            block.dynamic_mask = True

    def dense_features(self, pixels: Tensor) -> dict[str, Tensor]:
        embed = self.trunk.patch_embed
        maps = embed.norm(embed.proj(pixels).permute(0, 2, 3, 1))
        features = {"stem": maps}
        for name, stage in zip(STAGES, self.trunk.layers, strict=True):
            maps = features[name] = stage(maps)
        features["dense"] = self.trunk.norm(maps)
        return {name: value.permute(0, 3, 1, 2).contiguous() for name, value in features.items()}


class ViTaminTower(MeanOfTokensTower):
    """ViTamin: two stages of convolutions, then transformer blocks on tokens of stride 16.

    Of its feature pyramid "res4" are the last tokens, and "res5" is their 2 x 2 maximum, the coarsest map of ViTDet's
    simple feature pyramid; "dense" keeps stride 16.
    """

    refusals: ClassVar[Refusals] = {"mask prompts": TokenTower.refusals["mask prompts"]}

    def grid(self, height: int, width: int) -> Grid:
        return -(-height // self.patch_size[0]), -(-width // self.patch_size[1])

    def dense_features(self, pixels: Tensor) -> dict[str, Tensor]:
        stem: Any = self.visual.trunk.patch_embed.backbone
        features = _stages(stem.stem(pixels), stem.stages)
        maps = stem.pool(features["res3"])
        patches, grid = maps.flatten(2).transpose(1, 2), (maps.shape[-2], maps.shape[-1])
        tokens = self.sequence.before_pool(self.run(self.embed(patches, grid), grid))
        features["dense"] = features["res4"] = self.as_map(tokens[:, self.prefix :], grid)
        features["res5"] = F.max_pool2d(features["res4"], 2, ceil_mode=True)
        return features

    def pyramid_channels(self) -> dict[str, int]:
        stem: Any = self.visual.trunk.patch_embed.backbone
        first, second = (int(stage[-1].out_chs) for stage in stem.stages)
        return {"stem": int(stem.stem.out_chs), "res2": first, "res3": second, "res4": self.width, "res5": self.width}


def _stages(maps: Tensor, stages: Sequence[nn.Module]) -> dict[str, Tensor]:
    """ "stem" and what the stages make of it one after the other, "res2" and on."""
    features = {"stem": maps}
    for name, stage in zip(STAGES, stages):
        maps = features[name] = stage(maps)
    return features
