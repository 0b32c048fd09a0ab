"""TextRegion's pooling: the last attention of an image tower, restricted to the cells of each region.

Shape letters: n views of an image with (gh, gw) cells each, P cells of the joined grid, N regions, W tower width,
D joint embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.clip.towers.base import Grid, ImageTower
from maft.clip.towers.blocks import attention_inputs, attention_output, finish_block, mlp_output, run_block
from maft.clip.towers.latent_query import LatentQueryTower
from maft.clip.towers.mean_of_tokens import MeanOfTokensTower
from maft.clip.towers.tokens import ClassTokenTower, TokenTower
from maft.clip.towers.whole_image import RelativePositionTower
from maft.errors import UserError

_OFFICIAL_OFFSET = 0.1


class RegionPool:
    """What a kind of tower makes of regions.

    Attributes:
        soft: whether mask values weigh the cells; otherwise each cell counts alike in which a mask is above zero.
        whole_weight: of the features of the whole image where those of its crops are added to them.
    """

    soft: bool
    whole_weight: float

    def features(
        self, pixels: Tensor, *, official_positions: bool = False, dense: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """What is pooled, of normalised pixels (n, 3, h, w).

        Args:
            official_positions: as released, a position embedding of another size than the native one is stepped by
                native / (cells + 0.1), and rotary positions begin at the class token, so that each patch has those of
                the next one.
            dense: also an embedding of every cell by itself, for a class token alone.

        Returns:
            (n, W, gh, gw), and (n, D, gh, gw) of unit length, or None.
        """
        raise NotImplementedError

    def pool(self, features: Tensor, weights: Tensor, *, mlp: bool = False) -> Tensor:
        """Region tokens (N, D), not normalised.

        Args:
            features: (P, W).
            weights: (N, P) of the cells of each region, not negative.
            mlp: add what the last block's MLP makes of a region, for a class token alone.
        """
        raise NotImplementedError


class _OfTokens(RegionPool):
    """Of a tower whose attention works on tokens."""

    def __init__(self, tower: TokenTower) -> None:
        self.tower = tower

    def _tokens(self, pixels: Tensor, last: int | None, official: bool) -> tuple[Tensor, Grid, Tensor | None]:
        """Tokens (n, L, W) after the blocks before ``last``, their grid and their rotation."""
        patches, grid = self.tower.patches(pixels)
        tokens = self.tower.sequence.embed(patches, grid, False, _OFFICIAL_OFFSET if official else 0.0)
        rotation = self.tower.sequence.rotation(grid)
        if official and rotation is not None:
            # Sines of zero and cosines of one rotate nothing.
            still = torch.cat([rotation.new_zeros(rotation.shape[1] // 2), rotation.new_ones(rotation.shape[1] // 2)])
            rotation = torch.cat([rotation, still.expand(self.tower.prefix, -1)])
        for block in self.tower.blocks[:last]:
            tokens = run_block(block, tokens, rotation)
        return tokens, grid, rotation


class ClassTokenPool(_OfTokens):
    """The values of the last block, summed under a mask in place of the class token's attention.

    With values V of the patches and output projection O of the last block, a region of weights m is
    y = O(sum_p m_p V_p), without the residual stream; then the last norm and the projection. A cell by itself is what
    the last block makes of it with the attention softmax(QQ') + softmax(KK'), residuals and MLP included.
    """

    soft, whole_weight = True, 1.0
    tower: ClassTokenTower

    def features(
        self, pixels: Tensor, *, official_positions: bool = False, dense: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        block, prefix = self.tower.blocks[-1], self.tower.prefix
        tokens, grid, rotation = self._tokens(pixels, len(self.tower.blocks) - 1, official_positions)
        query, key, value = attention_inputs(block, tokens, rotation)
        values = self.tower.as_map(value.transpose(1, 2).flatten(2)[:, prefix:], grid)
        if not dense:
            return values, None
        attended = F.scaled_dot_product_attention(query, query, value) + F.scaled_dot_product_attention(key, key, value)
        rows = self.tower.project(finish_block(block, tokens, attended)[:, prefix:])
        return values, self.tower.as_map(F.normalize(rows.float(), dim=-1), grid)

    def pool(self, features: Tensor, weights: Tensor, *, mlp: bool = False) -> Tensor:
        block = self.tower.blocks[-1]
        # The output projection does not see heads, so that all of them are one here.
        rows = attention_output(block, (weights @ features)[None, None])[0]
        return self.tower.project(rows + mlp_output(block, rows) if mlp else rows)


class LatentQueryPool(_OfTokens):
    """The mean of a learned query's values under a mask, as if its attention were uniform there.

    What follows are the pool's output projection and the tower's own, without the pool's MLP.
    """

    soft, whole_weight = False, 0.5
    tower: LatentQueryTower

    def features(
        self, pixels: Tensor, *, official_positions: bool = False, dense: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        tokens, grid, _ = self._tokens(pixels, None, official_positions)
        return self.tower.as_map(self.tower.sequence.before_pool(tokens)[:, self.tower.prefix :], grid), None

    def pool(self, features: Tensor, weights: Tensor, *, mlp: bool = False) -> Tensor:
        shares = weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)
        return self.tower.sequence.after_pool(self.tower.pool.output(shares @ self.tower.pool.value(features)))


def region_pool(tower: ImageTower, purpose: str) -> RegionPool:
    """The pooling of regions of a kind of tower.

    Raises:
        UserError: it has none; ``purpose`` begins the sentence.
    """
    if isinstance(tower, ClassTokenTower):
        return ClassTokenPool(tower)
    if isinstance(tower, LatentQueryTower):
        return LatentQueryPool(tower)
    if isinstance(tower, MeanOfTokensTower):
        why = "its embedding is the mean of the tokens, without an attention that a mask could restrict"
    elif isinstance(tower, RelativePositionTower):
        why = "its attention knows the relative positions of its native size alone"
    else:
        why = "it is defined for the attention of a class token or a learned query to patches"
    raise UserError(
        f"{purpose} does not work with the image tower of {tower.name} ({tower.kind}): {why}; choose a ViT, SigLIP or "
        "PE-Core, or the classifier MaskedCrops, which takes any tower."
    )
