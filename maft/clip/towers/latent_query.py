"""Towers whose pool is the attention of one learned query to the tokens: SigLIP, SigLIP 2, PE-Core and CoCa.

Shape letters: B images, Q masks, P patches, L tokens, W tower width, D joint embedding, E width of the pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from open_clip.transformer import AttentionalPooler
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from maft.clip.towers.base import Grid
from maft.clip.towers.sequences import TokenSequence
from maft.clip.towers.tokens import TokenTower


class LatentPool(Protocol):
    """A pool taken apart around its attention."""

    heads: int

    def query(self) -> Tensor:
        """(1, 1, E)."""

    def key(self, tokens: Tensor) -> Tensor:
        """(..., W) -> (..., E)."""

    def value(self, tokens: Tensor) -> Tensor:
        """(..., W) -> (..., E)."""

    def output(self, attended: Tensor) -> Tensor:
        """The attention's output projection, (..., E) -> (..., E)."""

    def finish(self, attended: Tensor) -> Tensor:
        """That and an MLP, where there is one: (..., E) -> (..., E)."""

    def attention_and_norms(self) -> Iterator[nn.Parameter]:
        """Parameters other than the query and an MLP."""


class TimmLatentPool:
    """timm's AttentionPoolLatent with one query and neither positions nor norms of queries and keys."""

    def __init__(self, pool: AttentionPoolLatent) -> None:
        self.pool: Any = pool
        self.heads = int(pool.num_heads)

    @staticmethod
    def is_supported(pool: Any) -> bool:
        return (
            isinstance(pool, AttentionPoolLatent)
            and pool.latent_len == 1
            and pool.pos_embed is None
            and isinstance(pool.q_norm, nn.Identity)
            and isinstance(pool.k_norm, nn.Identity)
            and pool.mlp is not None
        )

    def query(self) -> Tensor:
        return self.pool.q(self.pool.latent)

    def key(self, tokens: Tensor) -> Tensor:
        return self._half(tokens, 0)

    def value(self, tokens: Tensor) -> Tensor:
        return self._half(tokens, 1)

    def output(self, attended: Tensor) -> Tensor:
        return self.pool.proj(attended)

    def finish(self, attended: Tensor) -> Tensor:
        pooled = self.output(attended)
        return pooled + self.pool.mlp(self.pool.norm(pooled))

    def attention_and_norms(self) -> Iterator[nn.Parameter]:
        for part in (self.pool.q, self.pool.kv, self.pool.proj, self.pool.norm):
            yield from part.parameters()

    def _half(self, tokens: Tensor, index: int) -> Tensor:
        weight, bias = self.pool.kv.weight.chunk(2), self.pool.kv.bias
        return F.linear(tokens, weight[index], None if bias is None else bias.chunk(2)[index])


class CoCaPool:
    """open_clip's AttentionalPooler, of whose queries the first alone makes the image's embedding."""

    def __init__(self, pool: AttentionalPooler) -> None:
        self.pool: Any = pool
        self.heads = int(pool.attn.num_heads)

    def query(self) -> Tensor:
        return self._projected(0, self.pool.ln_q(self.pool.query[None, :1]))

    def key(self, tokens: Tensor) -> Tensor:
        return self._projected(1, self.pool.ln_k(tokens))

    def value(self, tokens: Tensor) -> Tensor:
        return self._projected(2, self.pool.ln_k(tokens))

    def output(self, attended: Tensor) -> Tensor:
        return self.pool.attn.out_proj(attended)

    def finish(self, attended: Tensor) -> Tensor:
        return self.output(attended)

    def attention_and_norms(self) -> Iterator[nn.Parameter]:
        for part in (self.pool.attn, self.pool.ln_q, self.pool.ln_k):
            yield from part.parameters()

    def _projected(self, index: int, tokens: Tensor) -> Tensor:
        attention = self.pool.attn
        if attention.in_proj_weight is None:
            weight = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)[index]
        else:
            weight = attention.in_proj_weight.chunk(3)[index]
        return F.linear(tokens, weight, attention.in_proj_bias.chunk(3)[index])


class LatentQueryTower(TokenTower):
    """A learned query attends to the tokens, and what it finds is the image.

    Of a mask: the query attends to the patches the mask shows and to the class token, where the pool has one; a mask
    without a patch shows all. Dense features are the tokens the pool receives; at a single position its attention is
    the value. `pool_masks` lets the query attend to the positions of the mask alone.
    """

    kind = "latent query"

    def __init__(
        self, visual: nn.Module, name: str, sequence: TokenSequence, pool: LatentPool, *, pools_prefix: bool
    ) -> None:
        super().__init__(visual, name, sequence)
        self.pool = pool
        # How many tokens before the patches the pool sees.
        self.pooled_prefix = self.prefix if pools_prefix else 0

    def encode(self, pixels: Tensor, *, align_corners: bool = False) -> Tensor:
        tokens, _ = self._pooled_tokens(pixels, align_corners=align_corners)
        return self._attend(tokens, None)[:, 0]

    def encode_masked(
        self,
        pixels: Tensor,
        visible: Tensor,
        start_layer: int,
        *,
        align_corners: bool = False,
        checkpointing: bool = False,
    ) -> Tensor:
        tokens, _ = self._pooled_tokens(pixels, align_corners=align_corners, checkpointing=checkpointing)
        return self._attend_masked(tokens, visible)

    def encode_masked_and_whole(
        self,
        pixels: Tensor,
        visible: Tensor,
        start_layer: int,
        *,
        align_corners: bool = False,
        checkpointing: bool = False,
    ) -> tuple[Tensor, Tensor]:
        tokens, _ = self._pooled_tokens(pixels, align_corners=align_corners, checkpointing=checkpointing)
        return self._attend_masked(tokens, visible), self._attend(tokens, None)[:, 0]

    def _attend_masked(self, tokens: Tensor, visible: Tensor) -> Tensor:
        shown = visible | ~visible.any(-1, keepdim=True)
        before = shown.new_ones(*shown.shape[:2], self.pooled_prefix)
        return self._attend(tokens, torch.cat([before, shown], dim=-1))

    def project_pooled(self, vectors: Tensor) -> Tensor:
        return self.sequence.after_pool(self.pool.finish(self.pool.value(vectors)))

    def pool_masks(self, features: Tensor, inside: Tensor) -> Tensor:
        flat = inside.flatten(2)
        return self._attend(features.flatten(2).transpose(1, 2), flat | ~flat.any(-1, keepdim=True))

    def attention_and_norms(self) -> Iterator[nn.Parameter]:
        yield from super().attention_and_norms()
        yield from self.pool.attention_and_norms()

    def _pooled_tokens(
        self, pixels: Tensor, *, align_corners: bool = False, checkpointing: bool = False
    ) -> tuple[Tensor, Grid]:
        """What the pool sees (B, L, W), patches last, and the grid of the patches."""
        tokens, grid = self.tokens(pixels, align_corners=align_corners, checkpointing=checkpointing)
        return self.sequence.before_pool(tokens)[:, self.prefix - self.pooled_prefix :], grid

    def _attend(self, tokens: Tensor, visible: Tensor | None) -> Tensor:
        """The pool, once per mask (B, Q, L) bool, or once: (B, L, W) -> (B, Q or 1, D)."""
        rows = 1 if visible is None else visible.shape[1]
        query, key, value = (
            part.unflatten(2, (self.pool.heads, -1)).transpose(1, 2)
            for part in (self.pool.query(), self.pool.key(tokens), self.pool.value(tokens))
        )
        mask = None if visible is None else visible[:, None]
        query = query.expand(len(tokens), -1, rows, -1)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.sequence.after_pool(self.pool.finish(attended.transpose(1, 2).flatten(2)))
