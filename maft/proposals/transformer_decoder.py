"""Masked-attention transformer decoder of Mask2Former and the two ways its queries are classified."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.layers.transformer import MLP, Attention, EncoderLayer, position_codes


class MaskedDecoderLayer(EncoderLayer):
    """Masked cross-attention, self-attention and feed-forward network, each followed by residual and LayerNorm."""

    def __init__(self, width: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__(Attention(width, num_heads), width, ffn_dim)
        self.cross_attn = Attention(width, num_heads)
        self.cross_norm = nn.LayerNorm(width)

    def forward(  # type: ignore[override]
        self, queries: Tensor, query_position: Tensor, keys: Tensor, values: Tensor, visible: Tensor
    ) -> Tensor:
        """One layer.

        Args:
            queries: (B, Q, width).
            query_position: (Q, width), added wherever queries attend.
            keys: (B, S, width) image tokens with position.
            values: (B, S, width) image tokens.
            visible: (B, Q, S) bool, the tokens each query may attend to.
        """
        attended = self.cross_attn(queries + query_position, keys, values, visible)
        return super().forward(self.cross_norm(queries + attended), query_position)


class QueryClassHead(nn.Module):
    """Embeds a query for comparison with texts by an MLP (FreeSeg, ZSSeg)."""

    def __init__(self, width: int, hidden_dim: int, embedding_dim: int, num_layers: int) -> None:
        super().__init__()
        self.mlp = MLP(width, hidden_dim, embedding_dim, num_layers)

    def forward(self, queries: Tensor, mask_logits: Tensor, mask_features: Tensor) -> Tensor:
        """Normalised queries (B, Q, width), and the masks it does not look at -> (B, Q, embedding_dim)."""
        return self.mlp(queries)

    def scale(self) -> Tensor | None:
        """Temperature of the cosine; None for that of the text classifier."""
        return None


class MaskPooledClassHead(QueryClassHead):
    """MLP(q + W LN(f)), f the mean mask feature where the mask of query q is positive; own temperature (FC-CLIP)."""

    def __init__(self, width: int, mask_dim: int, embedding_dim: int) -> None:
        super().__init__(width, width, embedding_dim, num_layers=3)
        self.pooled_projection = nn.Sequential(nn.LayerNorm(mask_dim), nn.Linear(mask_dim, width))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, queries: Tensor, mask_logits: Tensor, mask_features: Tensor) -> Tensor:
        """Normalised queries (B, Q, width), masks (B, Q, h, w), features (B, mask_dim, h, w) -> (B, Q, D)."""
        inside = (mask_logits > 0).to(mask_features.dtype).flatten(2)
        share = inside / (inside.sum(-1, keepdim=True) + 1e-8)
        pooled = share @ mask_features.flatten(2).transpose(1, 2)
        return self.mlp(self.pooled_projection(pooled) + queries)

    def scale(self) -> Tensor | None:
        """exp(logit_scale), at most 100."""
        return self.logit_scale.exp().clamp(max=100)


class MaskedAttentionDecoder(nn.Module):
    """Queries that read the feature levels in turn, each through the mask it last predicted.

    Args:
        width, mask_dim: channels of the queries and of the mask features.
        memory_channels: channels of each feature level, coarse to fine; a level of another width gets a projection.
        class_head: maps (queries, masks, mask features) to embeddings.
        num_layers: decoder layers; there is one prediction more, before the first layer.
    """

    def __init__(
        self,
        *,
        width: int,
        mask_dim: int,
        memory_channels: Sequence[int],
        class_head: QueryClassHead,
        num_queries: int = 100,
        num_layers: int = 9,
        num_heads: int = 8,
        ffn_dim: int = 2048,
    ) -> None:
        super().__init__()
        self.input_proj = nn.ModuleList(
            nn.Identity() if channels == width else nn.Conv2d(channels, width, 1) for channels in memory_channels
        )
        self.level_embed = nn.Embedding(len(memory_channels), width)
        self.query_feat = nn.Embedding(num_queries, width)
        self.query_embed = nn.Embedding(num_queries, width)
        self.layers = nn.ModuleList(MaskedDecoderLayer(width, num_heads, ffn_dim) for _ in range(num_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.mask_embed = MLP(width, width, mask_dim, 3)
        self.class_head = class_head

    def forward(
        self, memories: Sequence[Tensor], mask_features: Tensor, all_layers: bool = True
    ) -> list[tuple[Tensor, Tensor]]:
        """Decodes one batch.

        Args:
            memories: feature levels (B, channels, h, w), coarse to fine.
            mask_features: (B, mask_dim, H/4, W/4).
            all_layers: also embed the predictions before the last layer, which only deep supervision needs.

        Returns:
            embeddings (B, Q, D) to compare with texts and mask logits (B, Q, H/4, W/4) in the order of the layers, the
            final ones last; only those without ``all_layers``.
        """
        values, keys = [], []
        for memory, projection, embedding in zip(memories, self.input_proj, self.level_embed.weight):
            projected = projection(memory)
            values.append(projected.flatten(2).mT + embedding)
            keys.append(values[-1] + position_codes(projected))

        # Resizing is linear: without their masks, layers read features that were resized once a level.
        coarse: list[Tensor] = []
        if not all_layers:
            sizes = [memory.shape[-2:] for memory in memories[: len(self.layers)]]
            coarse = [F.interpolate(mask_features, size=size, mode="bilinear") for size in sizes]
        predictions: list[tuple[Tensor, Tensor]] = []
        queries = self.query_feat.weight.expand(mask_features.shape[0], -1, -1)
        for index, layer in enumerate([*self.layers, None]):
            normalized = self.decoder_norm(queries)
            embedded, level = self.mask_embed(normalized), index % len(values)
            if all_layers or layer is None:
                masks = torch.einsum("bqc,bchw->bqhw", embedded, mask_features)
                predictions.append((self.class_head(normalized, masks, mask_features), masks))
            if layer is not None:
                if all_layers:
                    visible = self.visible(masks, (memories[level].shape[-2], memories[level].shape[-1]))
                else:
                    visible = self.inside(embedded @ coarse[level].flatten(2))
                queries = layer(queries, self.query_embed.weight, keys[level], values[level], visible)
        return predictions

    @staticmethod
    @torch.no_grad()
    def visible(masks: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens that each query may attend to: where its resized mask is at least one half, or all when none is.

        Args:
            masks: (B, Q, h, w) logits.
            size: (height, width) of the level.

        Returns:
            (B, Q, height * width) bool.
        """
        return MaskedAttentionDecoder.inside(F.interpolate(masks, size=size, mode="bilinear").flatten(2))

    @staticmethod
    @torch.no_grad()
    def inside(logits: Tensor) -> Tensor:
        """`visible` of masks (B, Q, S) that have the size of the level."""
        visible = logits >= 0
        return visible | ~visible.any(-1, keepdim=True)
