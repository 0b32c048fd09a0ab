"""Masked-attention transformer decoder of Mask2Former (section 3.2.1) and the two ways its queries are classified."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.layers.transformer import MLP, sine_position_encoding


class Attention(nn.Module):
    """Multi-head attention with one fused input projection and a mask that all heads share.

    `nn.MultiheadAttention` has the same parameters, but wants the mask repeated for every head.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        for weight in (self.in_proj_weight, self.out_proj.weight):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, Q, width), (B, K, width), (B, K, width) and optional bool (B, Q, K), True where seen -> (B, Q, width)."""
        parts = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3))
        q, k, v = (
            F.linear(tokens, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for tokens, weight, bias in parts
        )
        mask = None if visible is None else visible[:, None]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class MaskedDecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and feed-forward network, each followed by residual and LayerNorm."""

    def __init__(self, width: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.cross_attention = Attention(width, num_heads)
        self.cross_attention_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, num_heads)
        self.self_attention_norm = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, width)
        self.ffn_norm = nn.LayerNorm(width)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, queries: Tensor, query_position: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """One layer.

        Args:
            queries: (B, Q, width).
            query_position: (Q, width), added wherever queries attend.
            keys: (B, S, width) image tokens with position.
            values: (B, S, width) image tokens.
            visible: (B, Q, S) bool, the tokens each query may attend to.
        """
        attended = self.cross_attention(queries + query_position, keys, values, visible)
        queries = self.cross_attention_norm(queries + attended)
        positioned = queries + query_position
        queries = self.self_attention_norm(queries + self.self_attention(positioned, positioned, queries))
        return self.ffn_norm(queries + self.linear2(F.relu(self.linear1(queries))))


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


class MaskPooledClassHead(nn.Module):
    """Embeds a query together with the mask features under its mask, with a temperature of its own (FC-CLIP)."""

    def __init__(self, width: int, mask_dim: int, embedding_dim: int, num_layers: int = 3) -> None:
        super().__init__()
        self.mlp = MLP(width, width, embedding_dim, num_layers)
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


@dataclass
class LayerPrediction:
    """What the decoder says at one layer: embeddings (B, Q, D) to compare with texts, mask logits (B, Q, h, w)."""

    embeddings: Tensor
    masks: Tensor


class MaskedAttentionDecoder(nn.Module):
    """Queries that read the feature levels in turn, each through the mask it last predicted.

    Args:
        width: query width.
        mask_dim: channels of the mask features.
        memory_channels: channels of each feature level, coarse to fine; a level of another width gets a projection.
        class_head: maps (queries, masks, mask features) to embeddings.
        num_queries: number of proposals.
        num_layers: decoder layers; there is one prediction more, before the first layer.
        num_heads: attention heads.
        ffn_dim: width of the feed-forward network.
    """

    def __init__(
        self,
        *,
        width: int,
        mask_dim: int,
        memory_channels: Sequence[int],
        class_head: QueryClassHead | MaskPooledClassHead,
        num_queries: int = 100,
        num_layers: int = 9,
        num_heads: int = 8,
        ffn_dim: int = 2048,
    ) -> None:
        super().__init__()
        self.input_projections = nn.ModuleList(
            nn.Identity() if channels == width else nn.Conv2d(channels, width, 1) for channels in memory_channels
        )
        self.level_embedding = nn.Embedding(len(memory_channels), width)
        self.query_features = nn.Embedding(num_queries, width)
        self.query_positions = nn.Embedding(num_queries, width)
        self.layers = nn.ModuleList(MaskedDecoderLayer(width, num_heads, ffn_dim) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.mask_head = MLP(width, width, mask_dim, 3)
        self.class_head = class_head

    def forward(
        self, memories: Sequence[Tensor], mask_features: Tensor, all_layers: bool = True
    ) -> list[LayerPrediction]:
        """Decodes one batch.

        Args:
            memories: feature levels (B, channels, h, w), coarse to fine.
            mask_features: (B, mask_dim, H/4, W/4).
            all_layers: also embed the predictions before the last layer, which only deep supervision needs.

        Returns:
            predictions in the order of the layers, the final one last; only that one without ``all_layers``.
        """
        values, keys, sizes = [], [], []
        for memory, projection, embedding in zip(memories, self.input_projections, self.level_embedding.weight):
            tokens = (projection(memory).flatten(2) + embedding[:, None]).transpose(1, 2)
            sizes.append((int(memory.shape[-2]), int(memory.shape[-1])))
            position = sine_position_encoding(sizes[-1], tokens.shape[-1], device=memory.device)
            values.append(tokens)
            keys.append(tokens + position.flatten(1).T)

        predictions: list[LayerPrediction] = []
        queries = self.query_features.weight.expand(len(mask_features), -1, -1)
        for index, layer in enumerate(self.layers):
            normalized = self.norm(queries)
            masks = self._masks(normalized, mask_features)
            if all_layers:
                predictions.append(LayerPrediction(self.class_head(normalized, masks, mask_features), masks))
            level = index % len(values)
            visible = self.visible(masks, sizes[level])
            queries = layer(queries, self.query_positions.weight, keys[level], values[level], visible)
        normalized = self.norm(queries)
        masks = self._masks(normalized, mask_features)
        predictions.append(LayerPrediction(self.class_head(normalized, masks, mask_features), masks))
        return predictions

    def _masks(self, normalized: Tensor, mask_features: Tensor) -> Tensor:
        return torch.einsum("bqc,bchw->bqhw", self.mask_head(normalized), mask_features)

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
        resized = F.interpolate(masks, size=size, mode="bilinear", align_corners=False).flatten(2)
        visible = resized.sigmoid() >= 0.5
        return visible | ~visible.any(-1, keepdim=True)
