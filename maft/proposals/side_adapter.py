"""The side adapter of SAN (Xu et al., CVPR 2023): a light ViT beside CLIP's that reads features of CLIP on its way.

Shape letters: B images, Q queries, E width of the side adapter, C width of CLIP, (h, w) its grid of patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from timm.layers import LayerNorm2d
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from maft.layers.transformer import MLP


class Fusion(nn.Module):
    """Adds features of CLIP to patches of the side adapter: norm, projection, then a bilinear resize."""

    def __init__(self, clip_width: int, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(clip_width, eps=1e-6)
        self.projection = nn.Conv2d(clip_width, width, 1)
        weight_init.c2_xavier_fill(self.projection)

    def forward(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, C, gh, gw) -> (B, h * w, E)."""
        projected = self.projection(self.norm(features))
        resized = F.interpolate(projected, size=grid, mode="bilinear", align_corners=False)
        return resized.flatten(2).transpose(1, 2)


class PixelMLP(nn.Module):
    """`MLP` at every pixel of a map: (B, input_dim, h, w) -> (B, output_dim, h, w)."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, layers: int) -> None:
        super().__init__()
        widths = [input_dim, *[hidden_dim] * (layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Conv2d(n, m, 1) for n, m in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class SideAdapter(nn.Module):
    """Queries and patches in one ViT without class token and last norm; masks and attention biases of the queries.

    Positions are added before the first block and again after every block but the last, to the queries as well.

    Args:
        num_queries: Q.
        width, depth, heads, patch_size: of the ViT.
        image_size: side of the square image that its position embedding is made for.
        fused: for each block after which features of CLIP are added (0: before the first), their width C.
        supervised: the blocks, counted from 1, that masks are made after; the last of them in evaluation.
        bias_heads: number of attention heads that a bias is made for.
        embed_dim, hidden_dim, mlp_layers: widths and depth of the three MLPs that make masks and biases.
        resize_by_count: resize the position embedding only where the number of patches differs from its own, as the
            official code does; False: where their layout does.
    """

    def __init__(
        self,
        *,
        num_queries: int,
        width: int,
        depth: int,
        heads: int,
        patch_size: int,
        image_size: int,
        fused: Mapping[int, int],
        supervised: Sequence[int],
        bias_heads: int,
        embed_dim: int,
        hidden_dim: int,
        mlp_layers: int,
        resize_by_count: bool = False,
    ) -> None:
        super().__init__()
        self.supervised, self.bias_heads, self.resize_by_count = tuple(supervised), bias_heads, resize_by_count
        self.side = image_size // patch_size
        self.query_embed = nn.Parameter(torch.zeros(1, num_queries, width))
        self.query_pos_embed = nn.Parameter(torch.zeros(1, num_queries, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.side**2, width))
        self.patch_embed = nn.Conv2d(3, width, patch_size, stride=patch_size)
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        self.fusions = nn.ModuleDict({str(block): Fusion(channels, width) for block, channels in fused.items()})
        self.query_mlp = MLP(width, hidden_dim, embed_dim, mlp_layers)
        self.pixel_mlp = PixelMLP(width, hidden_dim, embed_dim, mlp_layers)
        self.bias_mlp = PixelMLP(width, hidden_dim, bias_heads * embed_dim, mlp_layers)
        self.bias_scaling = nn.Linear(1, 1)
        for tensor in (self.query_embed, self.query_pos_embed, self.pos_embed):
            nn.init.trunc_normal_(tensor, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self, pixels: Tensor, features: Mapping[int, Tensor], *, all_layers: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """Masks and biases, of the last supervised block last.

        Args:
            pixels: (B, 3, H, W) normalised.
            features: (B, C, gh, gw) of CLIP, by the block after which they are added.
            all_layers: of every supervised block, not of the last alone.

        Returns:
            mask logits (B, Q, h, w) and biases (B, bias_heads, Q, h, w) of each.
        """
        patches = self.patch_embed(pixels)
        grid = (patches.shape[-2], patches.shape[-1])
        position = torch.cat([self.query_pos_embed, self._position(grid)], dim=1)
        queries = self.query_embed.expand(pixels.shape[0], -1, -1)
        tokens = torch.cat([queries, patches.flatten(2).transpose(1, 2)], dim=1) + position
        tokens = self._fused(tokens, features, 0, grid)
        wanted = self.supervised if all_layers else self.supervised[-1:]
        kept = []
        for number, block in enumerate(self.blocks[: wanted[-1]], start=1):
            tokens = self._fused(block(tokens), features, number, grid)
            if number in wanted:
                kept.append(self._decoded(tokens, grid))
            if number < len(self.blocks):
                tokens = tokens + position
        return kept

    def _position(self, grid: tuple[int, int]) -> Tensor:
        """(1, h * w, E)."""
        same = grid[0] * grid[1] == self.side**2 if self.resize_by_count else grid == (self.side, self.side)
        if same:
            return self.pos_embed
        square = self.pos_embed.transpose(1, 2).unflatten(2, (self.side, self.side))
        resized = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
        return resized.flatten(2).transpose(1, 2)

    def _fused(self, tokens: Tensor, features: Mapping[int, Tensor], block: int, grid: tuple[int, int]) -> Tensor:
        if str(block) not in self.fusions:
            return tokens
        number = self.query_embed.shape[1]
        patches = tokens[:, number:] + self.fusions[str(block)](features[block], grid)
        return torch.cat([tokens[:, :number], patches], dim=1)

    def _decoded(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        number = self.query_embed.shape[1]
        queries = self.query_mlp(tokens[:, :number])
        patches = tokens[:, number:].transpose(1, 2).unflatten(2, grid)
        masks = torch.einsum("bqc,bchw->bqhw", queries, self.pixel_mlp(patches))
        of_heads = self.bias_mlp(patches).unflatten(1, (self.bias_heads, -1))
        bias = torch.einsum("bqc,bnchw->bnqhw", queries, of_heads)
        return masks, self.bias_scaling(bias[..., None])[..., 0]
