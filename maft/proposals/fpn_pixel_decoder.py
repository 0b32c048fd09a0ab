"""MaskFormer's pixel decoder: a plain feature pyramid (Cheng et al., NeurIPS 2021, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn


class FPNPixelDecoder(nn.Module):
    """Merges backbone features top-down into one high-resolution map of per-pixel embeddings.

    Args:
        channels: channels of every backbone feature by name, from the highest resolution to the lowest.
        conv_dim: channels of the pyramid.
        mask_dim: channels of the per-pixel embeddings.
        norm: Detectron2's name of the normalisation ("GN": 32 groups).
    """

    def __init__(self, channels: Mapping[str, int], *, conv_dim: int, mask_dim: int, norm: str = "GN") -> None:
        super().__init__()
        self.lateral = nn.ModuleDict()
        self.output = nn.ModuleDict()
        *finer, coarsest = channels
        # A convolution before a normalisation needs no bias.
        bias = not norm
        for name in finer:
            self.lateral[name] = Conv2d(channels[name], conv_dim, 1, bias=bias, norm=get_norm(norm, conv_dim))
        for name in channels:
            inputs = channels[name] if name == coarsest else conv_dim
            self.output[name] = Conv2d(
                inputs, conv_dim, 3, padding=1, bias=bias, norm=get_norm(norm, conv_dim), activation=F.relu
            )
        self.mask_features = Conv2d(conv_dim, mask_dim, 3, padding=1)
        for conv in (*self.lateral.values(), *self.output.values(), self.mask_features):
            weight_init.c2_xavier_fill(conv)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Backbone features (B, C_i, h_i, w_i) by name -> per-pixel embeddings (B, mask_dim, h, w) of the finest."""
        *finer, coarsest = self.output
        x = self.output[coarsest](features[coarsest])
        for name in reversed(finer):
            lateral = self.lateral[name](features[name])
            x = self.output[name](lateral + F.interpolate(x, size=lateral.shape[-2:], mode="nearest"))
        return self.mask_features(x)
