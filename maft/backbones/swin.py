"""Swin Transformer backbone (Liu et al., ICCV 2021) as MaskFormer and OVSeg use it: any image size, four feature maps.

The window attention and patch merging are timm's. The block is our own because timm pads after the cyclic shift and
gives the shift up on maps not larger than a window; the released segmentation models pad first and always shift.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.layers import DropPath, Mlp, trunc_normal_
from timm.models.swin_transformer import PatchMerging, WindowAttention, window_partition, window_reverse
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maft.errors import UserError


def shifted_window_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Attention bias that keeps apart the regions a cyclic shift brings together.

    Args:
        height, width: size of the padded map, multiples of ``window``.

    Returns:
        (windows, window**2, window**2) float32: 0 within a region, -100 between regions.
    """

    def region(length: int) -> Tensor:
        position = torch.arange(length, device=device)
        return (position >= length - window).int() + (position >= length - shift).int()

    regions = 3 * region(height)[:, None] + region(width)[None, :]
    windows = window_partition(regions[None, :, :, None], (window, window)).flatten(1)
    return torch.where(windows[:, None, :] == windows[:, :, None], 0.0, -100.0)


class SwinBlock(nn.Module):
    """Window attention and MLP, both residual and pre-normalised; channels last.

    Args:
        shift: how far the windows are shifted, 0 or half a window.
        drop_path: probability of skipping each residual branch of a sample in training.
    """

    def __init__(
        self, dim: int, heads: int, window: int, shift: int, mlp_ratio: float, qkv_bias: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads=heads, window_size=(window, window), qkv_bias=qkv_bias)
        # timm leaves this off until asked; it makes the backbone a quarter faster on a CPU.
        self.attn.fused_attn = True  # type: ignore[misc]
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(in_features=dim, hidden_features=int(dim * mlp_ratio))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); ``mask`` as `shifted_window_mask` gives it for the padded size."""
        x = x + self.drop_path(self._attend(self.norm1(x), mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window = (self.window, self.window)
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        padded_height, padded_width = x.shape[1:3]
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        windows = window_partition(x, window).flatten(1, 2)
        windows = self.attn(windows, mask=mask.to(windows.dtype) if self.shift else None)
        x = window_reverse(windows.unflatten(1, window), window, padded_height, padded_width)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]


class SwinStage(nn.Module):
    """The blocks of one resolution, every second one shifted, and the patch merging that follows them.

    Args:
        drop_path: one probability per block; its length is the depth.
        downsample: whether a patch merging follows.
        activation_checkpointing: recompute the blocks in the backward pass to save memory.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path: Sequence[float],
        downsample: bool,
        activation_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.window = window
        self.activation_checkpointing = activation_checkpointing
        self.blocks = nn.ModuleList(
            SwinBlock(dim, heads, window, window // 2 if index % 2 else 0, mlp_ratio, qkv_bias, probability)
            for index, probability in enumerate(drop_path)
        )
        self.downsample = PatchMerging(dim) if downsample else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, C) -> output of the blocks (B, H, W, C), input of the next stage (B, ceil(H/2), ceil(W/2), 2C)."""
        height, width = (side + -side % self.window for side in x.shape[1:3])
        mask = shifted_window_mask(height, width, self.window, self.window // 2, x.device)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        return x, x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """Non-overlapping patches, zero-padded right and bottom to whole patches: (B, 3, H, W) -> (B, H/p, W/p, C)."""

    def __init__(self, patch_size: int, dim: int, norm: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % self.patch_size, 0, -height % self.patch_size))
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class SwinTransformer(Backbone):
    """Swin Transformer that gives the normalised output of every stage as "res2" to "res5" (strides 4 to 32).

    Args:
        embed_dim: channels of the first stage; every stage doubles them.
        depths, num_heads: blocks and attention heads of each stage.
        window_size: side of the attention windows, in tokens.
        patch_norm: LayerNorm after the patch embedding.
        absolute_position_size: side, in pixels, of the pretraining images of a learned absolute position embedding;
            0 for none.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 at the first.
        freeze_at: Detectron2's count of frozen stages: 1 freezes the patch embedding, 2 the first stage as well, ...
        out_features: which of "res2" to "res5" are returned.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        patch_size: int = 4,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        patch_norm: bool = True,
        absolute_position_size: int = 0,
        drop_path_rate: float = 0.3,
        freeze_at: int = 0,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        names = [f"res{index + 2}" for index in range(len(depths))]
        unknown = [name for name in out_features if name not in names]
        if len(num_heads) != len(depths) or unknown:
            raise UserError(
                f"MODEL.SWIN has {len(depths)} DEPTHS, {len(num_heads)} NUM_HEADS and OUT_FEATURES "
                f"{list(out_features)}: give one head count per stage and features among {names}."
            )
        self.patch_embed = PatchEmbed(patch_size, embed_dim, patch_norm)
        self.absolute_pos_embed = None
        if absolute_position_size:
            side = absolute_position_size // patch_size
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, side, side))
        dims = [embed_dim * 2**index for index in range(len(depths))]
        total = sum(depths)
        drop_path = [drop_path_rate * index / max(total - 1, 1) for index in range(total)]
        starts = [sum(depths[:index]) for index in range(len(depths))]
        self.layers = nn.ModuleList(
            SwinStage(
                dims[index],
                num_heads[index],
                window_size,
                mlp_ratio,
                qkv_bias,
                drop_path[starts[index] : starts[index] + depth],
                index + 1 < len(depths),
                activation_checkpointing,
            )
            for index, depth in enumerate(depths)
        )
        self.norms = nn.ModuleDict({name: nn.LayerNorm(dim) for name, dim in zip(names, dims) if name in out_features})
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(names, dims))
        self._out_feature_strides = {name: patch_size * 2**index for index, name in enumerate(names)}
        self._initialize()
        self._freeze(freeze_at)

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.absolute_pos_embed is not None:
            trunc_normal_(self.absolute_pos_embed, std=0.02)

    def _freeze(self, freeze_at: int) -> None:
        for part in [self.patch_embed, *self.layers][:freeze_at]:
            part.requires_grad_(False)
        if freeze_at and self.absolute_pos_embed is not None:
            self.absolute_pos_embed.requires_grad_(False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Normalised image (B, 3, H, W) of any size -> feature maps (B, C * 2**i, ceil(H / s), ceil(W / s))."""
        x = self.patch_embed(image)
        if self.absolute_pos_embed is not None:
            position = F.interpolate(self.absolute_pos_embed, size=x.shape[1:3], mode="bicubic")
            x = x + position.permute(0, 2, 3, 1)
        features = {}
        for name, stage in zip(self._out_feature_strides, self.layers):
            output, x = stage(x)
            if name in self._out_features:
                features[name] = self.norms[name](output).permute(0, 3, 1, 2).contiguous()
        return features

    @property
    def size_divisibility(self) -> int:
        return 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every returned feature map."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SwinTransformer:
    """`SwinTransformer` from ``MODEL.SWIN`` and ``MODEL.BACKBONE.FREEZE_AT``, for ``MODEL.BACKBONE.NAME``."""
    swin = cfg.MODEL.SWIN
    return SwinTransformer(
        embed_dim=swin.EMBED_DIM,
        depths=swin.DEPTHS,
        num_heads=swin.NUM_HEADS,
        window_size=swin.WINDOW_SIZE,
        patch_size=swin.PATCH_SIZE,
        mlp_ratio=swin.MLP_RATIO,
        qkv_bias=swin.QKV_BIAS,
        patch_norm=swin.PATCH_NORM,
        absolute_position_size=swin.PRETRAIN_IMG_SIZE if swin.APE else 0,
        drop_path_rate=swin.DROP_PATH_RATE,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        out_features=swin.OUT_FEATURES,
        activation_checkpointing=swin.USE_CHECKPOINT,
    )
