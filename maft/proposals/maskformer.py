"""MaskFormer (Cheng et al., NeurIPS 2021) with a text-compared class embedding: ZSSeg, ZegFormer, OVSeg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor, nn

from maft.clip import CLIPEncoder
from maft.errors import UserError
from maft.interfaces import BuildContext
from maft.layers.transformer import MLP, Transformer, position_codes
from maft.options import Channels, Dropout, Layers, Norm, Positive, PositiveLayers
from maft.proposals.criterion import SetPredictionProposer
from maft.proposals.pixel_decoder import NORM_GROUPS, normalisation
from maft.registry import PROPOSERS
from maft.structures import Images, Proposals, Targets, TextClassifier


class FPNPixelDecoder(nn.Module):
    """Merges backbone features top-down into one high-resolution map of per-pixel embeddings.

    Args:
        channels: channels of every backbone feature by name, from the highest resolution to the lowest.
        conv_dim: channels of the pyramid.
        mask_dim: channels of the per-pixel embeddings.
        norm: Detectron2's name of the normalisation ("GN": 32 groups).
    """

    def __init__(self, channels: Mapping[str, int], *, conv_dim: int, mask_dim: int, norm: Norm = "GN") -> None:
        super().__init__()
        if norm == "GN" and conv_dim % NORM_GROUPS:
            raise UserError(
                f"MODEL.PROPOSER.MaskFormer.CONV_DIM {conv_dim} must be a multiple of {NORM_GROUPS}, the groups of "
                "NORM GN."
            )
        self.lateral = nn.ModuleDict()
        self.output = nn.ModuleDict()
        *finer, coarsest = channels
        # A convolution before a normalisation needs no bias.
        bias = not norm
        for name in finer:
            self.lateral[name] = Conv2d(channels[name], conv_dim, 1, bias=bias, norm=normalisation(norm, conv_dim))
        for name in channels:
            inputs = channels[name] if name == coarsest else conv_dim
            self.output[name] = Conv2d(
                inputs, conv_dim, 3, padding=1, bias=bias, norm=normalisation(norm, conv_dim), activation=F.relu
            )
        self.mask_features = Conv2d(conv_dim, mask_dim, 3, padding=1)
        for conv in (*self.lateral.values(), *self.output.values(), self.mask_features):
            weight_init.c2_xavier_fill(conv)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Backbone features (B, C_i, h_i, w_i) by name -> per-pixel embeddings (B, mask_dim, h, w) of the finest."""
        *finer, coarsest = self.output
        x = self.output[coarsest](features[coarsest])
        for name in reversed(finer):
            lateral = self.lateral[name](features[name])
            x = self.output[name](lateral + F.interpolate(x, size=lateral.shape[-2:], mode="nearest"))
        return self.mask_features(x)


@PROPOSERS.register()
class MaskFormer(SetPredictionProposer):
    """Proposer: MaskFormer's masks, with class logits that compare every query with the texts (OVSeg, ZSSeg).

    Args:
        backbone: a Detectron2 backbone.
        channels: channels of its features by name, from the highest resolution to the lowest.
        embedding_dim: D, width of CLIP's joint space.
        num_queries: how many there are, and so proposals of an image (Q).
        conv_dim: channels of the pixel decoder.
        mask_dim: channels of the per-pixel embeddings.
        hidden_dim: width of the transformer.
        heads: its attention heads.
        feedforward_dim: hidden width of its MLPs.
        encoder_layers, decoder_layers: its layers.
        dropout: its dropout.
        pre_norm: normalise the input of each of its sub-layers instead of the sum after it.
        embedding_hidden_dim, embedding_layers: the class embedding's MLP; one layer is a linear projection (ZegFormer).
        transformer_feature: the backbone feature that the transformer reads.
        deep_supervision: in training, predict from every decoder layer and not from the last alone.
        norm: Detectron2's name of the pixel decoder's normalisation.

    Raises:
        UserError: the backbone lacks the feature, or widths and heads do not go together.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: Mapping[str, int],
        embedding_dim: int,
        *,
        num_queries: Positive = 100,
        conv_dim: Channels = 256,
        mask_dim: Channels = 256,
        hidden_dim: Channels = 256,
        heads: Channels = 8,
        feedforward_dim: Channels = 2048,
        encoder_layers: Layers = 0,
        decoder_layers: PositiveLayers = 6,
        dropout: Dropout = 0.1,
        pre_norm: bool = False,
        embedding_hidden_dim: Channels = 1024,
        embedding_layers: PositiveLayers = 2,
        transformer_feature: str = "res5",
        deep_supervision: bool = True,
        norm: Norm = "GN",
        **common: Any,
    ) -> None:
        super().__init__(backbone, **common)
        if transformer_feature not in channels:
            raise UserError(
                f"MODEL.PROPOSER.MaskFormer.TRANSFORMER_FEATURE {transformer_feature!r} is not a feature of the "
                f"backbone: choose one of {list(channels)}."
            )
        if hidden_dim % heads or hidden_dim % 2:
            raise UserError(
                f"MODEL.PROPOSER.MaskFormer.HIDDEN_DIM {hidden_dim} must be even and a multiple of HEADS {heads}."
            )
        self.transformer_feature, self.deep_supervision = transformer_feature, deep_supervision
        self.pixel_decoder = FPNPixelDecoder(channels, conv_dim=conv_dim, mask_dim=mask_dim, norm=norm)
        self.transformer = Transformer(
            hidden_dim,
            heads=heads,
            feedforward_dim=feedforward_dim,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            dropout=dropout,
            pre_norm=pre_norm,
        )
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        inputs = channels[transformer_feature]
        # As released: features that already have the transformer's width are not projected.
        self.input_proj: nn.Module = nn.Identity()
        if inputs != hidden_dim:
            self.input_proj = nn.Conv2d(inputs, hidden_dim, 1)
            weight_init.c2_xavier_fill(self.input_proj)
        self.class_embed = MLP(hidden_dim, embedding_hidden_dim, embedding_dim, embedding_layers)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)

    @classmethod
    def from_options(cls, context: BuildContext, **options: Any) -> Any:
        backbone = context.backbone()
        channels = {name: shape.channels for name, shape in backbone.output_shape().items()}  # type: ignore[operator]
        return cls(backbone, channels, context.clip.embed_dim, **options)

    def predict(self, features: Mapping[str, Tensor], *, all_layers: bool) -> tuple[Tensor, Tensor]:
        """Predictions of L decoder layers, the final one last.

        Args:
            features: (B, C_i, h_i, w_i) by name.
            all_layers: predict from every decoder layer; otherwise from the final one alone (L = 1).

        Returns:
            class embeddings (L, B, Q, embedding_dim), not normalised, and mask logits (L, B, Q, h, w) at the finest
            feature's size.
        """
        pixels = self.pixel_decoder(features)
        memory = self.input_proj(features[self.transformer_feature])
        position = position_codes(memory).to(memory.dtype)
        decoded = self.transformer(memory.flatten(2).mT, position, self.query_embed.weight)
        if not all_layers:
            decoded = decoded[-1:]
        return self.class_embed(decoded), torch.einsum("lbqc,bchw->lbqhw", self.mask_embed(decoded), pixels)

    def forward(
        self,
        images: Images,
        text: TextClassifier,
        clip: CLIPEncoder,
        targets: list[Targets] | None = None,
        records: Sequence[dict[str, Any]] | None = None,
    ) -> Proposals:
        """Mask logits (B, Q, H/4, W/4) and class logits (B, Q, C + 1); earlier layers as auxiliary in training."""
        assert self.backbone is not None
        features = self.backbone(images.normalized(self.pixel_mean, self.pixel_std))
        embeddings, masks = self.predict(features, all_layers=self.training and self.deep_supervision)
        layers = [
            Proposals(mask, images.padded_size, class_logits=self.class_logits(embedding, text), queries=embedding)
            for embedding, mask in zip(embeddings, masks)
        ]
        final = layers.pop()
        final.auxiliary = layers
        return final

    def class_logits(self, queries: Tensor, text: TextClassifier) -> Tensor:
        """(B, Q, C + 1) scaled cosines of class embeddings (B, Q, D) with the texts, void last."""
        return text.logits(queries)
