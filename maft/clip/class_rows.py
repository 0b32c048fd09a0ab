"""Names by class rows under a bias of their attention, as SAN's proposer and its classifier share them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from maft.clip.encoder import CLIPEncoder
from maft.clip.towers.base import Grid
from maft.clip.towers.tokens import ClassTokenTower
from maft.errors import UserError


def class_token_tower(clip: CLIPEncoder, start_layer: int, node: str) -> ClassTokenTower:
    """CLIP's image tower, if class rows can enter it at block ``start_layer``.

    Args:
        node: config key of the component that asks, for messages.

    Raises:
        UserError: the tower has no class token, or no such block.
    """
    tower = clip.tower
    if not isinstance(tower, ClassTokenTower):
        raise UserError(
            f"{node} does not work with the image tower of {clip.name} ({tower.kind}): its masks are named by copies "
            "of a class token; choose a ViT with one, such as ViT-B-16."
        )
    if start_layer >= len(tower.blocks):
        raise UserError(
            f"{node}.START_LAYER is {start_layer}, but the image tower of {clip.name} has blocks 0 to "
            f"{len(tower.blocks) - 1}."
        )
    return tower


def scaled_pixels(pixels: Tensor, scale: float, tower: ClassTokenTower) -> Tensor:
    """Pixels (B, 3, H, W) as CLIP sees them: (B, 3, floor(scale H), floor(scale W)), in steps of 1 / scale exactly.

    Raises:
        UserError: they are less than one patch.
    """
    size = [int(side * scale) for side in pixels.shape[-2:]]
    if any(side < patch for side, patch in zip(size, tower.patch_size, strict=True)):
        raise UserError(
            f"CLIP would see a padded image of {pixels.shape[-2]}x{pixels.shape[-1]} pixels at {size[0]}x{size[1]}, "
            f"less than one patch of {tower.name}: give larger images, or raise CLIP_SCALE, now {scale:g}."
        )
    if scale == 1:
        return pixels
    return F.interpolate(pixels, scale_factor=scale, mode="bilinear", align_corners=False)


def bias_on_grid(bias: Tensor, grid: Grid) -> Tensor:
    """(B, heads, Q, h, w) -> (B, heads, Q, P), the largest value in the part of the image that a patch covers."""
    return F.adaptive_max_pool2d(bias.flatten(0, 1), grid).flatten(2).unflatten(0, bias.shape[:2])


def embeddings_of_rows(tower: ClassTokenTower, tokens: Tensor, grid: Grid, bias: Tensor, start_layer: int) -> Tensor:
    """Embeddings (B, Q, D), not normalised, of rows that see themselves and the patches under a bias.

    Args:
        tokens: (B, 1 + P, W) as block ``start_layer`` receives them.
        bias: as for `ClassTokenTower.class_rows`.
    """
    return tower.project(tower.class_rows(tokens, grid, bias, start_layer, keeps_class_token=True))
