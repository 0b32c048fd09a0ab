"""Mask2Former as a proposer (Cheng et al., CVPR 2022), its queries compared with texts; FC-CLIP's form is an option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from maft.clip import CLIPEncoder
from maft.errors import UserError
from maft.interfaces import BuildContext
from maft.options import Channels, Dropout, Layers, NonNegative, Positive, PositiveLayers, Side, Weight
from maft.proposals.criterion import SetPredictionProposer
from maft.proposals.pixel_decoder import FEATURES, PixelDecoder
from maft.proposals.test_size import of_originals, resized_copy
from maft.proposals.transformer_decoder import MaskedAttentionDecoder, MaskPooledClassHead, QueryClassHead
from maft.registry import PROPOSERS
from maft.structures import Images, Proposals, Targets, TextClassifier


@PROPOSERS.register()
class Mask2Former(SetPredictionProposer):
    """Proposer: masks from learned queries with masked attention, class logits from a comparison with the texts.

    Args:
        backbone: detectron2 (what MODEL.BACKBONE names) or clip (the shared tower: FC-CLIP).
        channels: of the backbone's features by name.
        embedding_dim: D, width of CLIP's joint space.
        num_queries: how many there are, and so proposals of an image (Q).
        conv_dim: channels of the pixel decoder.
        mask_dim: channels of the per-pixel embeddings.
        hidden_dim: width of the queries.
        heads: attention heads.
        feedforward_dim: hidden width of the transformer decoder's MLPs.
        encoder_layers: deformable attention layers of the pixel decoder.
        encoder_points: sampling points per head and level of one of them.
        encoder_feedforward_dim: hidden width of its MLPs.
        decoder_layers: layers of the transformer decoder, one less than the official DEC_LAYERS.
        class_head: query (an MLP of the query) or pooled (FC-CLIP: query and pooled mask features, own temperature).
        embedding_hidden_dim, embedding_layers: of the MLP of a class head of the kind query.
        dropout: of the pixel decoder.
        align_corners: how its masks are resized.
        test_size: short side of the copies of images that it looks at at test; None: the images themselves. Not to be
            trained with.

    Raises:
        UserError: widths and heads do not go together.
    """

    def __init__(
        self,
        backbone: nn.Module | None,
        channels: Mapping[str, int],
        embedding_dim: int,
        *,
        num_queries: Positive = 100,
        conv_dim: Channels = 256,
        mask_dim: Channels = 256,
        hidden_dim: Channels = 256,
        heads: Channels = 8,
        feedforward_dim: Channels = 2048,
        encoder_layers: Layers = 6,
        encoder_points: Positive = 4,
        encoder_feedforward_dim: Channels = 1024,
        decoder_layers: PositiveLayers = 9,
        class_head: Literal["query", "pooled"] = "query",
        embedding_hidden_dim: Channels = 1024,
        embedding_layers: PositiveLayers = 2,
        dropout: Dropout = 0.0,
        class_weight: Weight = 2.0,
        mask_weight: Weight = 5.0,
        dice_weight: Weight = 5.0,
        mask_loss: Literal["focal", "bce"] = "bce",
        num_points: NonNegative = 12544,
        align_corners: bool = False,
        test_size: Side | None = None,
        **common: Any,
    ) -> None:
        super().__init__(
            backbone,
            class_weight=class_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
            mask_loss=mask_loss,
            num_points=num_points,
            **common,
        )
        if hidden_dim % heads:
            raise UserError(f"HIDDEN_DIM {hidden_dim} of the proposer must be a multiple of its HEADS, {heads}.")
        self.align_corners, self.test_size = align_corners, test_size
        if test_size is not None:
            # Copies are padded instead.
            self.divisor, self.size_divisibility = self.size_divisibility, 1
        self.pixel_decoder = PixelDecoder(
            channels,
            width=conv_dim,
            mask_dim=mask_dim,
            num_layers=encoder_layers,
            num_heads=heads,
            num_points=encoder_points,
            ffn_dim=encoder_feedforward_dim,
            dropout=dropout,
        )
        if class_head == "query":
            head = QueryClassHead(hidden_dim, embedding_hidden_dim, embedding_dim, embedding_layers)
        else:
            head = MaskPooledClassHead(hidden_dim, mask_dim, embedding_dim)
        self.decoder = MaskedAttentionDecoder(
            width=hidden_dim,
            mask_dim=mask_dim,
            memory_channels=[conv_dim] * len(self.pixel_decoder.input_proj),
            class_head=head,
            num_queries=num_queries,
            num_layers=decoder_layers,
            num_heads=heads,
            ffn_dim=feedforward_dim,
        )

    @classmethod
    def from_options(
        cls, context: BuildContext, *, backbone: Literal["detectron2", "clip"] = "detectron2", **options: Any
    ) -> Any:
        """Raises `UserError` when CLIP shall be the backbone and has no feature pyramid."""
        if backbone == "clip":
            tower = context.clip.tower
            tower.require("feature pyramid", f"MODEL.PROPOSER.{cls.__name__}.BACKBONE clip")
            return cls(None, tower.pyramid_channels(), context.clip.embed_dim, **options)
        module = context.backbone()
        channels = {name: shape.channels for name, shape in module.output_shape().items()}  # type: ignore[operator]
        return cls(module, channels, context.clip.embed_dim, **options)

    def forward(
        self,
        images: Images,
        text: TextClassifier,
        clip: CLIPEncoder,
        targets: list[Targets] | None = None,
        records: Sequence[dict[str, Any]] | None = None,
    ) -> Proposals:
        """Mask logits (B, Q, H/4, W/4) and class logits (B, Q, C + 1), void last; in training also of earlier layers.

        With the CLIP backbone the features are passed on as ``clip_features``; the mask losses do not reach the tower.
        """
        if self.test_size is None:
            return self.propose(images, text, clip)
        if self.training:
            raise UserError(
                f"MODEL.PROPOSER.{type(self).__name__}.TEST_SIZE is for a frozen proposer: set MODEL.PROPOSER.FROZEN "
                "True, or remove TEST_SIZE while it trains."
            )
        copy = resized_copy(images, self.test_size, self.divisor)
        return of_originals(self.propose(copy, text, clip), copy, images)

    def propose(self, images: Images, text: TextClassifier, clip: CLIPEncoder) -> Proposals:
        """`forward` on images as they are."""
        clip_features = None
        if self.backbone is None:
            clip_features = clip.dense_features(images)
            features = {name: clip_features[name].detach() for name in FEATURES}
        else:
            features = self.backbone(images.normalized(self.pixel_mean, self.pixel_std))
        mask_features, memories = self.pixel_decoder(features)
        mask_features, memories = self.read_texts(mask_features, memories, text)
        supervised = self.training and torch.is_grad_enabled()
        layers = [
            Proposals(
                masks,
                images.padded_size,
                class_logits=self.class_logits(embeddings, text),
                align_corners=self.align_corners,
                queries=embeddings,
            )
            for embeddings, masks in self.decoder(memories, mask_features, all_layers=supervised)
        ]
        final = layers.pop()
        final.auxiliary = layers
        final.clip_features = clip_features
        return final

    def class_logits(self, queries: Tensor, text: TextClassifier) -> Tensor:
        """(B, Q, C + 1) scaled cosines of class embeddings (B, Q, D) with the texts, void last."""
        return text.logits(queries, self.decoder.class_head.scale())

    def read_texts(
        self, mask_features: Tensor, memories: list[Tensor], text: TextClassifier
    ) -> tuple[Tensor, list[Tensor]]:
        """Hook between the decoders: what the texts change in the features; nothing here."""
        return mask_features, memories
