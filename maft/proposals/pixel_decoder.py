"""Pixel decoder of Mask2Former: a deformable encoder over the coarse levels and a feature pyramid below it."""

from __future__ import annotations

from collections.abc import Mapping

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from maft.errors import UserError
from maft.layers.deformable_attention import DeformableAttention
from maft.layers.feature_levels import FeatureLevels
from maft.layers.transformer import EncoderLayer, position_codes

# What the pixel decoder reads of a backbone: strides 4, 8, 16 and 32.
FEATURES = ("res2", "res3", "res4", "res5")
# Tokens are ordered from the coarsest level to the finest, the pyramid goes on from there.
_FINEST, _ENCODED = FEATURES[0], FEATURES[:0:-1]
NORM_GROUPS = 32


class DeformableEncoderLayer(EncoderLayer):
    """Deformable self-attention and a feed-forward network, each followed by residual and LayerNorm."""

    def forward(self, tokens: Tensor, position: Tensor, levels: FeatureLevels) -> Tensor:  # type: ignore[override]
        """(B, S, width) -> (B, S, width); the position is added to the queries only."""
        tokens = self.residual(tokens, self.norm1, lambda y: self.self_attn(y + position, y, levels))
        return self.fed_forward(tokens, self.norm2)


class GroupNorm(nn.GroupNorm):
    """Of a single value in a group as well, which it makes its bias: nn.GroupNorm refuses that of one small image."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def normalisation(name: str, channels: int) -> nn.Module | None:
    """What a convolution's output goes through, by Detectron2's name; None for ``""``."""
    return GroupNorm(NORM_GROUPS, channels) if name == "GN" else get_norm(name, channels)


class PixelDecoder(nn.Module):
    """Turns backbone features into mask features and multi-scale memories (Mask2Former).

    A deformable encoder works on res5, res4 and res3, and one step of a feature pyramid joins res2 below it. Always
    computes in float32: sampling locations lose pixels in half precision.

    Args:
        channels: of the backbone's features by name.
        width: token width, a multiple of 32.
        mask_dim: channels of the mask features.
        num_layers, num_heads, num_points, ffn_dim, dropout: of the encoder; points are counted per head and level.

    Raises:
        UserError: a feature is missing, or the width is no multiple of what it must be.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        *,
        width: int,
        mask_dim: int,
        num_layers: int,
        num_heads: int,
        num_points: int,
        ffn_dim: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % NORM_GROUPS or width % num_heads:
            raise UserError(
                f"The width {width} of the pixel decoder (CONV_DIM, in FreeSeg HIDDEN_DIM) must be a multiple of "
                f"{NORM_GROUPS} (GroupNorm) and of its {num_heads} heads."
            )
        missing = [name for name in FEATURES if name not in channels]
        if missing:
            raise UserError(
                f"The pixel decoder needs the backbone feature {missing[0]!r}, but the backbone gives "
                f"{', '.join(channels)}: add it to MODEL.RESNETS.OUT_FEATURES (or its like)."
            )
        self.input_proj = nn.ModuleList()
        for name in _ENCODED:
            projection = nn.Conv2d(channels[name], width, 1)
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)  # type: ignore[arg-type]
            self.input_proj.append(nn.Sequential(projection, GroupNorm(NORM_GROUPS, width)))
        self.level_embed = nn.Parameter(torch.randn(len(_ENCODED), width))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(
                DeformableAttention(width, num_heads, len(_ENCODED), num_points), width, ffn_dim, dropout
            )
            for _ in range(num_layers)
        )
        norm, output_norm = GroupNorm(NORM_GROUPS, width), GroupNorm(NORM_GROUPS, width)
        self.lateral = Conv2d(channels[_FINEST], width, 1, bias=False, norm=norm)
        self.output = Conv2d(width, width, 3, padding=1, bias=False, norm=output_norm, activation=F.relu_)
        self.mask_features = nn.Conv2d(width, mask_dim, 1)
        for conv in (self.lateral, self.output, self.mask_features):
            weight_init.c2_xavier_fill(conv)

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decodes backbone features.

        Args:
            features: maps (B, channels, h, w) by name.

        Returns:
            mask features (B, mask_dim, H/4, W/4) and one memory (B, width, h, w) per encoder level, coarse to fine.
        """
        with torch.autocast(next(iter(features.values())).device.type, enabled=False):
            features = {name: value.float() for name, value in features.items()}
            projected = [projection(features[name]) for projection, name in zip(self.input_proj, _ENCODED)]
            sizes = [(level.shape[-2], level.shape[-1]) for level in projected]
            levels = FeatureLevels.shared(sizes, projected[0])
            position = torch.cat([position_codes(level) + code for level, code in zip(projected, self.level_embed)])
            tokens = torch.cat([level.flatten(2).mT for level in projected], dim=1)
            for layer in self.layers:
                tokens = layer(tokens, position, levels)
            parts = tokens.split([h * w for h, w in sizes], dim=1)
            memories = [part.mT.unflatten(2, size) for part, size in zip(parts, sizes)]
            lateral = self.lateral(features[_FINEST])
            upsampled = F.interpolate(memories[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            return self.mask_features(self.output(lateral + upsampled)), memories
