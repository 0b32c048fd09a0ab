"""What stands around the blocks of a tower that works on a sequence of tokens, in open_clip and in timm.

Shape letters: B images, P = gh * gw patches, L = prefix + P tokens, W tower width, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers import RotaryEmbeddingCat
from torch import Tensor, nn

from maft.clip.towers.base import Grid


def resize_position_embedding(
    position: Tensor,
    native: Grid,
    grid: Grid,
    *,
    prefix: int = 1,
    align_corners: bool = False,
    mode: str = "bicubic",
    antialias: bool = False,
    offset: float = 0.0,
) -> Tensor:
    """Position embedding (prefix + native patches, W) resized to another grid: (prefix + P, W).

    The first rows, those of the tokens before the patches, are kept. open_clip and OVSeg resize as the defaults do,
    MAFT and MaskCLIP++ with ``align_corners=True`` and timm with ``antialias=True``. With an ``offset`` o, 0.1 in
    DINO's and TextRegion's releases, steps of native / (cells + o) are taken along both sides.
    """
    # A side that torch.export keeps open is no int, and not to be compared with.
    if all(isinstance(side, int) for side in grid) and grid == native:
        return position
    patches = position[prefix:].reshape(1, *native, -1).permute(0, 3, 1, 2)
    # Half precision has no bicubic kernel on every device.
    size: dict[str, Any] = {"size": grid}
    if offset:
        size = {"scale_factor": [(cells + offset) / before for cells, before in zip(grid, native, strict=True)]}
    patches = F.interpolate(patches.float(), **size, mode=mode, align_corners=align_corners, antialias=antialias)
    patches = patches.to(position.dtype).flatten(2)[0].transpose(0, 1)
    return torch.cat([position[:prefix], patches])


class TokenSequence:
    """How a library makes tokens of pixels, and an embedding of what its pool leaves.

    Attributes:
        blocks: the transformer's.
        width: W.
        prefix: number of tokens before the patches.
        patch_size: (height, width) in pixels.
        native: (gh, gw) of the position embedding.
        last_norms: the norms between the last block and the projection.
        head_names: how the names of the parameters after the pool begin.
    """

    blocks: Sequence[nn.Module]
    width: int
    prefix: int
    patch_size: Grid
    native: Grid
    last_norms: Sequence[nn.Module]
    head_names: tuple[str, ...]

    def grid(self, height: int, width: int) -> Grid:
        """(gh, gw) of an image; what does not fill a patch is left out."""
        return height // self.patch_size[0], width // self.patch_size[1]

    def patches(self, pixels: Tensor) -> tuple[Tensor, Grid]:
        """Patch embedding of normalised pixels (B, 3, h, w): tokens (B, P, W), row-major, and the grid (gh, gw)."""
        raise NotImplementedError

    def embed(self, patches: Tensor, grid: Grid, align_corners: bool, offset: float = 0.0) -> Tensor:
        """What stands before the first block: (B, P, W) -> (B, L, W); see `resize_position_embedding`."""
        raise NotImplementedError

    def rotation(self, grid: Grid) -> Tensor | None:
        """Rotary position embedding of the patches, see `maft.clip.towers.blocks.attention_inputs`."""
        return None

    def before_pool(self, tokens: Tensor) -> Tensor:
        """(..., W) -> (..., W), what stands between the last block and the pool."""
        raise NotImplementedError

    def after_pool(self, vectors: Tensor) -> Tensor:
        """(..., W) -> (..., D), what stands after the pool."""
        raise NotImplementedError


class OpenClipSequence(TokenSequence):
    """Of open_clip's VisionTransformer."""

    prefix = 1
    head_names = ("ln_post.", "proj", "attn_pool.")

    def __init__(self, visual: VisionTransformer, norm_before_pool: bool) -> None:
        self.visual = visual
        self.blocks = visual.transformer.resblocks
        self.width = int(visual.class_embedding.shape[0])
        self.patch_size = (int(visual.patch_size[0]), int(visual.patch_size[1]))
        self.native = (int(visual.grid_size[0]), int(visual.grid_size[1]))
        self.last_norms = [visual.ln_post]
        self.norm_before_pool = norm_before_pool

    def patches(self, pixels: Tensor) -> tuple[Tensor, Grid]:
        patches = self.visual.conv1(pixels)
        return patches.flatten(2).transpose(1, 2), (patches.shape[-2], patches.shape[-1])

    def embed(self, patches: Tensor, grid: Grid, align_corners: bool, offset: float = 0.0) -> Tensor:
        visual = self.visual
        position = resize_position_embedding(
            visual.positional_embedding, self.native, grid, align_corners=align_corners, offset=offset
        )
        # Not cast to the patches' type: under autocast the residual stream stays in float32.
        token = visual.class_embedding.expand(patches.shape[0], 1, -1)
        return visual.ln_pre(torch.cat([token, patches], dim=1) + position)

    def before_pool(self, tokens: Tensor) -> Tensor:
        return self.visual.ln_post(tokens) if self.norm_before_pool else tokens

    def after_pool(self, vectors: Tensor) -> Tensor:
        return (vectors if self.norm_before_pool else self.visual.ln_post(vectors)) @ self.visual.proj


class TimmSequence(TokenSequence):
    """Of timm's VisionTransformer and Eva inside open_clip's adaptor, with a convolutional stem or without."""

    def __init__(self, visual: TimmModel) -> None:
        self.visual = visual
        trunk: Any = visual.trunk
        self.trunk = trunk
        self.blocks = trunk.blocks
        self.width = int(trunk.embed_dim)
        self.prefix = int(trunk.num_prefix_tokens)
        embed = trunk.patch_embed
        self.stem = getattr(embed, "backbone", None)
        self.native = (int(embed.grid_size[0]), int(embed.grid_size[1]))
        self.patch_size = (embed.img_size[0] // self.native[0], embed.img_size[1] // self.native[1])
        self.last_norms = [trunk.norm, trunk.fc_norm]
        self.head_names = ("trunk.fc_norm.", "trunk.head.", "trunk.attn_pool.", "head.")

    @staticmethod
    def is_supported(trunk: Any) -> bool:
        """Whether positions are embedded as this class does it."""
        rotary = getattr(trunk, "rope", None)
        return rotary is None or isinstance(rotary, RotaryEmbeddingCat)

    def patches(self, pixels: Tensor) -> tuple[Tensor, Grid]:
        embed = self.trunk.patch_embed
        maps = embed.proj(pixels if self.stem is None else self.stem(pixels))
        tokens = maps.flatten(2).transpose(1, 2)
        return getattr(embed, "norm", nn.Identity())(tokens), (maps.shape[-2], maps.shape[-1])

    def embed(self, patches: Tensor, grid: Grid, align_corners: bool, offset: float = 0.0) -> Tensor:
        trunk = self.trunk
        tokens = (trunk.cls_token, getattr(trunk, "reg_token", None))
        before = [token.expand(len(patches), -1, -1) for token in tokens if token is not None]
        if trunk.pos_embed is None:
            return trunk.norm_pre(torch.cat([*before, patches], dim=1))
        without_prefix = trunk.no_embed_class
        position = resize_position_embedding(
            trunk.pos_embed[0],
            self.native,
            grid,
            prefix=0 if without_prefix else self.prefix,
            align_corners=align_corners,
            antialias=not align_corners,
            offset=offset,
        )
        if without_prefix:
            return trunk.norm_pre(torch.cat([*before, patches + position], dim=1))
        return trunk.norm_pre(torch.cat([*before, patches], dim=1) + position)

    def rotation(self, grid: Grid) -> Tensor | None:
        rotary = getattr(self.trunk, "rope", None)
        if rotary is None or grid == self.native:
            return None if rotary is None else rotary.get_embed()
        # timm keeps the rotation of one grid in the module: a copy leaves the tower as it is.
        other = deepcopy(rotary)
        other.update_feat_shape(grid)
        return other.get_embed()

    def before_pool(self, tokens: Tensor) -> Tensor:
        return self.trunk.norm(tokens)

    def after_pool(self, vectors: Tensor) -> Tensor:
        return self.visual.head(self.trunk.head(self.trunk.fc_norm(vectors)))
