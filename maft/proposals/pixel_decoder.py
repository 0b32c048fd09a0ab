"""Pixel decoder of Mask2Former: a deformable encoder over the coarse levels and a feature pyramid below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec
from torch import Tensor, nn

from maft.errors import UserError
from maft.layers.deformable_attention import DeformableAttention, FeatureLevels
from maft.layers.transformer import sine_position_encoding

_NORM_GROUPS = 32


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each followed by residual and LayerNorm."""

    def __init__(
        self, width: int, num_heads: int, num_levels: int, num_points: int, ffn_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, num_heads, num_levels, num_points)
        self.attention_norm = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, tokens: Tensor, position: Tensor, levels: FeatureLevels) -> Tensor:
        """(B, S, width) -> (B, S, width); the position is added to the queries only."""
        attended = self.attention(tokens + position, tokens, levels)
        tokens = self.attention_norm(tokens + self.dropout(attended))
        expanded = self.linear2(self.dropout(F.relu(self.linear1(tokens))))
        return self.ffn_norm(tokens + self.dropout(expanded))


class PixelDecoder(nn.Module):
    """Turns backbone features into mask features and multi-scale memories (Mask2Former section 3.2.2).

    Always computes in float32: sampling locations lose pixels in half precision.

    Args:
        input_shape: backbone outputs by name, with channels and stride.
        width: token width, a multiple of 32.
        mask_dim: channels of the mask features.
        num_layers: encoder layers.
        num_heads: attention heads.
        num_points: sampled points per head and level.
        ffn_dim: width of the encoder's feed-forward network.
        dropout: dropout in the encoder.
        encoder_features: names of the levels the encoder works on; finer levels join through the pyramid.
    """

    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        width: int = 256,
        mask_dim: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        ffn_dim: int = 1024,
        dropout: float = 0.0,
        encoder_features: Sequence[str] = ("res3", "res4", "res5"),
    ) -> None:
        super().__init__()
        if width % _NORM_GROUPS or width % num_heads:
            raise UserError(
                f"The width {width} of the pixel decoder (CONV_DIM, in FreeSeg HIDDEN_DIM) must be a multiple of "
                f"{_NORM_GROUPS} (GroupNorm) and of its {num_heads} heads."
            )
        missing = [name for name in encoder_features if name not in input_shape]
        if missing:
            raise UserError(
                f"The pixel decoder needs the backbone feature {missing[0]!r}, but the backbone gives "
                f"{', '.join(input_shape)}: add it to MODEL.RESNETS.OUT_FEATURES (or its like)."
            )
        strides = {name: shape.stride or 1 for name, shape in input_shape.items()}
        channels = {name: shape.channels or 0 for name, shape in input_shape.items()}
        # Tokens are ordered from the coarsest level to the finest, the pyramid goes on from there.
        self.encoder_features = sorted(encoder_features, key=lambda name: -strides[name])
        finest = strides[self.encoder_features[-1]]
        self.pyramid_features = sorted(
            (name for name in input_shape if strides[name] < finest), key=lambda name: -strides[name]
        )
        self.input_projections = nn.ModuleList()
        for name in self.encoder_features:
            projection = nn.Conv2d(channels[name], width, 1)
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)  # type: ignore[arg-type]
            self.input_projections.append(nn.Sequential(projection, nn.GroupNorm(_NORM_GROUPS, width)))
        self.level_embedding = nn.Parameter(torch.randn(len(self.encoder_features), width))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(width, num_heads, len(self.encoder_features), num_points, ffn_dim, dropout)
            for _ in range(num_layers)
        )
        self.lateral_convs = nn.ModuleDict()
        self.output_convs = nn.ModuleDict()
        for name in self.pyramid_features:
            norm, output_norm = nn.GroupNorm(_NORM_GROUPS, width), nn.GroupNorm(_NORM_GROUPS, width)
            self.lateral_convs[name] = Conv2d(channels[name], width, 1, bias=False, norm=norm)
            self.output_convs[name] = Conv2d(
                width, width, 3, padding=1, bias=False, norm=output_norm, activation=F.relu
            )
            weight_init.c2_xavier_fill(self.lateral_convs[name])
            weight_init.c2_xavier_fill(self.output_convs[name])
        self.mask_features = nn.Conv2d(width, mask_dim, 1)
        weight_init.c2_xavier_fill(self.mask_features)

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decodes backbone features.

        Args:
            features: maps (B, channels, h, w) by name.

        Returns:
            mask features (B, mask_dim, H/4, W/4) and one memory (B, width, h, w) per encoder level, coarse to fine.
        """
        with torch.autocast(next(iter(features.values())).device.type, enabled=False):
            return self._decode({name: value.float() for name, value in features.items()})

    def _decode(self, features: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        projected = [
            projection(features[name]) for projection, name in zip(self.input_projections, self.encoder_features)
        ]
        sizes = [(int(level.shape[-2]), int(level.shape[-1])) for level in projected]
        device, width = projected[0].device, projected[0].shape[1]
        levels = FeatureLevels.of(sizes, device)
        position = torch.cat(
            [
                sine_position_encoding(size, width, device=device).flatten(1).T + embedding
                for size, embedding in zip(sizes, self.level_embedding)
            ]
        )
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in projected], dim=1)
        for layer in self.layers:
            tokens = layer(tokens, position, levels)
        memories = [
            part.transpose(1, 2).unflatten(2, size)
            for part, size in zip(tokens.split([h * w for h, w in sizes], dim=1), sizes)
        ]
        finest = memories[-1]
        for name in self.pyramid_features:
            lateral = self.lateral_convs[name](features[name])
            upsampled = F.interpolate(finest, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            finest = self.output_convs[name](lateral + upsampled)
        return self.mask_features(finest), memories
