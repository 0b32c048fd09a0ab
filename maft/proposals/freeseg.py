"""FreeSeg's mask generator (Qin et al., CVPR 2023), which MAFT fine-tunes CLIP on: Mask2Former that reads the texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.proposals.criterion import SetCriterion
from maft.proposals.mask2former import IMAGENET_MEAN, IMAGENET_STD, Mask2Former, build_backbone, build_decoders
from maft.proposals.pixel_decoder import PixelDecoder
from maft.proposals.transformer_decoder import MaskedAttentionDecoder
from maft.registry import PROPOSERS, BuildContext
from maft.structures import TextClassifier

# Scores of this many (token, head, text) triples are held at a time: 16 MiB in float32.
_CHUNK = 1 << 22


class TextInteraction(nn.Module):
    """Cross-attention from image tokens to texts, shared by all feature maps (FreeSeg section 3.3).

    Published for all maps in turn, with one property that trained weights depend on: texts are normalised once
    more before every map, so map i sees them normalised i + 1 times; and the residual is the normalised token.

    Args:
        width: channels of the feature maps.
        text_dim: width of the texts.
        inner_dim: total width of the attention.
        num_heads: heads, a divisor of ``inner_dim``.
        dropout: dropout on the attention weights.
    """

    def __init__(
        self, *, width: int, text_dim: int, inner_dim: int = 2048, num_heads: int = 8, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.token_norm = nn.LayerNorm(width)
        self.text_norm = nn.LayerNorm(text_dim)
        self.query_projection = nn.Linear(width, inner_dim)
        self.key_projection = nn.Linear(text_dim, inner_dim)
        self.value_projection = nn.Linear(text_dim, inner_dim)
        self.output_projection = nn.Linear(inner_dim, width)
        self.dropout = nn.Dropout(dropout)
        self.gamma = nn.Parameter(torch.full((width,), 0.1))
        projections = (self.query_projection, self.key_projection, self.value_projection, self.output_projection)
        for projection in projections:
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, maps: Sequence[Tensor], texts: Tensor) -> list[Tensor]:
        """Maps (B, width, h, w) in the order they are decoded, and texts (T, text_dim), void included -> the maps."""
        changed = []
        for features in maps:
            texts = self.text_norm(texts)
            tokens = self.token_norm(features.flatten(2).transpose(1, 2))
            attended = self._attend(tokens, texts)
            changed.append((tokens + self.gamma * attended).transpose(1, 2).unflatten(2, features.shape[-2:]))
        return changed

    def _attend(self, tokens: Tensor, texts: Tensor) -> Tensor:
        """Multi-head attention with the token-side projections folded into the few texts.

        q . k = x (Wq^T k) + bq . k, and the output projection of the values is taken per text, so no token is ever
        widened to ``inner_dim``: two matrix products with heads * T columns do it all.

        Args:
            tokens: (B, N, width).
            texts: (T, text_dim).
        """
        heads = self.num_heads
        keys = (
            self.key_projection(texts).unflatten(-1, (heads, -1)) * (self.key_projection.out_features // heads) ** -0.5
        )
        query_weight = self.query_projection.weight.unflatten(0, (heads, -1))
        query_bias = self.query_projection.bias.unflatten(0, (heads, -1))
        folded_keys = torch.einsum("thd,hdc->htc", keys, query_weight).flatten(0, 1)
        folded_bias = torch.einsum("thd,hd->ht", keys, query_bias).flatten()
        values = self.value_projection(texts).unflatten(-1, (heads, -1))
        output_weight = self.output_projection.weight.unflatten(1, (heads, -1))
        folded_values = torch.einsum("thd,chd->htc", values, output_weight).flatten(0, 1)

        def attend(part: Tensor) -> Tensor:
            scores = F.linear(part, folded_keys, folded_bias).unflatten(-1, (heads, -1))
            return self.dropout(scores.softmax(-1)).flatten(-2) @ folded_values

        step = max(1, _CHUNK // (len(folded_keys) * len(tokens)))
        return torch.cat([attend(part) for part in tokens.split(step, dim=1)], dim=1) + self.output_projection.bias


@PROPOSERS.register()
class FreeSeg(Mask2Former):
    """Mask2Former whose features attend to the class texts before decoding, so that masks depend on the vocabulary.

    Args:
        interaction: the text interaction; its width must be that of memories and mask features alike.

    The other arguments are those of `Mask2Former`.
    """

    def __init__(
        self,
        backbone: nn.Module | None,
        pixel_decoder: PixelDecoder,
        decoder: MaskedAttentionDecoder,
        criterion: SetCriterion,
        interaction: TextInteraction,
        *,
        align_corners: bool = True,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(
            backbone,
            pixel_decoder,
            decoder,
            criterion,
            align_corners=align_corners,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )
        self.interaction = interaction

    @classmethod
    def from_options(  # type: ignore[override]
        cls,
        context: BuildContext,
        *,
        backbone: str = "detectron2",
        num_queries: int = 100,
        hidden_dim: int = 256,
        heads: int = 8,
        feedforward_dim: int = 2048,
        encoder_layers: int = 6,
        encoder_points: int = 4,
        encoder_feedforward_dim: int = 1024,
        encoder_features: Sequence[str] = ("res3", "res4", "res5"),
        decoder_layers: int = 9,
        embedding_hidden_dim: int = 1024,
        embedding_layers: int = 2,
        interaction_dim: int = 2048,
        interaction_heads: int = 8,
        dropout: float = 0.1,
        class_weight: float = 1.0,
        mask_weight: float = 20.0,
        dice_weight: float = 5.0,
        void_weight: float = 0.1,
        supervise_last_auxiliary: bool = True,
        align_corners: bool = True,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> FreeSeg:
        """Assembles the generator from its YAML options.

        The released models have 10 decoder layers, and their criterion leaves out the prediction before the last
        layer (``supervise_last_auxiliary`` False).
        """
        module, shapes = build_backbone(context, backbone)
        embedding_dim = context.clip.embed_dim
        pixel_decoder, decoder = build_decoders(
            shapes,
            embedding_dim,
            num_queries=num_queries,
            conv_dim=hidden_dim,
            mask_dim=hidden_dim,
            hidden_dim=hidden_dim,
            heads=heads,
            feedforward_dim=feedforward_dim,
            encoder_layers=encoder_layers,
            encoder_points=encoder_points,
            encoder_feedforward_dim=encoder_feedforward_dim,
            encoder_features=encoder_features,
            decoder_layers=decoder_layers,
            class_head="query",
            embedding_hidden_dim=embedding_hidden_dim,
            embedding_layers=embedding_layers,
            dropout=dropout,
        )
        interaction = TextInteraction(
            width=hidden_dim,
            text_dim=embedding_dim,
            inner_dim=interaction_dim,
            num_heads=interaction_heads,
            dropout=dropout,
        )
        criterion = SetCriterion(
            class_weight=class_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
            void_weight=void_weight,
            supervise_last_auxiliary=supervise_last_auxiliary,
        )
        return cls(
            module,
            pixel_decoder,
            decoder,
            criterion,
            interaction,
            align_corners=align_corners,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )

    def read_texts(
        self, mask_features: Tensor, memories: list[Tensor], text: TextClassifier
    ) -> tuple[Tensor, list[Tensor]]:
        """Memories, then mask features, attend to the texts with the void row last."""
        *memories, mask_features = self.interaction([*memories, mask_features], text.matrix)
        return mask_features, memories
