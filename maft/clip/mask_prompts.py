"""Mask prompts: learned tokens in place of the patches a region does not show (OVSeg's mask prompt tuning)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.errors import UserError


class MaskPrompts(nn.Module):
    """Prompt tokens for a tower with a class token, one per position and depth.

    Where k is 1 for a patch with any pixel of the region and 0 for a blank one, and E_d are the prompts of depth d,

        T_0 = k * patches + (1 - k) * E_0,    T_d = k * T + (1 - k) * E_d   with T the patches' tokens after block d,

    d = 1 .. depth - 1. The class token is never replaced, and there is no attention mask. The first prompts
    stand in for patches before positions are added or rotated.

    Args:
        tower: the image tower the prompts are for; read for its sizes, not kept.
        depth: how often blank patches are replaced: 1 before the class token and position embedding are added, every
            further one after another block; at most the number of blocks.
        image_size: (height, width) of the pixels the tower will see; its native size by default.

    Attributes:
        tokens: (depth, patches, tower width) parameter, initialised from N(0, 0.02**2).

    Raises:
        UserError: the tower has no class token, or the depth lies outside 1 to its number of blocks.
    """

    def __init__(self, tower: Any, depth: int, image_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        tower.require("mask prompts", "MASK_PROMPT_DEPTH above 0")
        blocks = len(tower.blocks)
        if not 1 <= depth <= blocks:
            raise UserError(
                f"MASK_PROMPT_DEPTH {depth} does not fit the CLIP tower of {blocks} blocks: choose 0 (no prompts) to "
                f"{blocks}."
            )
        self.grid = tower.grid(*(image_size or tower.image_size))
        self.tokens = nn.Parameter(torch.empty(depth, self.grid[0] * self.grid[1], tower.width))
        nn.init.normal_(self.tokens, std=0.02)

    def forward(self, tower: Any, pixels: Tensor, region_masks: Tensor) -> Tensor:
        """Embeds regions.

        Args:
            tower: the image tower, or a tuned copy of it.
            pixels: (n, 3, h, w) normalised regions.
            region_masks: (n, 1, h, w), above 0 where a pixel belongs to the region.

        Returns:
            (n, D) embeddings, not normalised.

        Raises:
            UserError: the pixels make another patch grid than the prompts were made for.
        """
        patches, grid = tower.patches(pixels)
        if grid != self.grid:
            raise UserError(
                f"The mask prompts are for a grid of {self.grid[0]}x{self.grid[1]} patches and the regions make "
                f"{grid[0]}x{grid[1]}: set INPUT_SIZE to the size the prompts were trained with."
            )
        # A patch is kept when any of its pixels belongs to the region.
        blank = F.max_pool2d(region_masks, tower.patch_size).flatten(1)[..., None] <= 0
        prompts = self.tokens.to(patches.dtype)
        tokens = tower.embed(torch.where(blank, prompts[0], patches), grid)
        for index, prompt in enumerate(prompts[1:]):
            tokens = tower.run(tokens, grid, index, index + 1)
            tokens = torch.cat([tokens[:, :1], torch.where(blank, prompt, tokens[:, 1:])], dim=1)
        return tower.embedding_of(tokens, grid, len(prompts) - 1)
