"""Towers that work on a sequence of tokens and pool it by its mean; shape letters as in `maft.clip.towers.tokens`."""

from __future__ import annotations

from torch import Tensor

from maft.clip.towers.base import Grid
from maft.clip.towers.tokens import TokenTower
from maft.layers.mask_pool import weighted_mean


class MeanOfTokensTower(TokenTower):
    """The mean of the patches is the image (CLIPA, ViTamin, ViTs with global average pooling).

    A mask takes the mean of the tokens it shows, one without any the mean of all.
    """

    kind = "mean of tokens"

    def encode(self, pixels: Tensor, *, align_corners: bool = False) -> Tensor:
        tokens, _ = self._last_tokens(pixels, align_corners=align_corners)
        return self.project_pooled(tokens.mean(1))

    def encode_masked(
        self,
        pixels: Tensor,
        visible: Tensor,
        start_layer: int,
        *,
        align_corners: bool = False,
        checkpointing: bool = False,
    ) -> Tensor:
        tokens, grid = self._last_tokens(pixels, align_corners=align_corners, checkpointing=checkpointing)
        return self._means(tokens, grid, visible)

    def encode_masked_and_whole(
        self,
        pixels: Tensor,
        visible: Tensor,
        start_layer: int,
        *,
        align_corners: bool = False,
        checkpointing: bool = False,
    ) -> tuple[Tensor, Tensor]:
        tokens, grid = self._last_tokens(pixels, align_corners=align_corners, checkpointing=checkpointing)
        return self._means(tokens, grid, visible), self.project_pooled(tokens.mean(1))

    def _means(self, tokens: Tensor, grid: Grid, visible: Tensor) -> Tensor:
        weights = (visible | ~visible.any(-1, keepdim=True)).float()
        weights = (weights / weights.sum(-1, keepdim=True)).unflatten(2, grid)
        return self.project_pooled(weighted_mean(self.as_map(tokens, grid), weights))

    def _last_tokens(
        self, pixels: Tensor, *, align_corners: bool = False, checkpointing: bool = False
    ) -> tuple[Tensor, Grid]:
        """The patches (B, P, W) as the pool receives them."""
        tokens, grid = self.tokens(pixels, align_corners=align_corners, checkpointing=checkpointing)
        return self.sequence.before_pool(tokens)[:, self.prefix :], grid
