"""Mask2Former as a proposer (Cheng et al., CVPR 2022), its queries compared with texts; FC-CLIP's form is an option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from maft.errors import UserError
from maft.proposals.criterion import SetCriterion
from maft.proposals.pixel_decoder import PixelDecoder
from maft.proposals.transformer_decoder import MaskedAttentionDecoder, MaskPooledClassHead, QueryClassHead
from maft.registry import PROPOSERS, BuildContext
from maft.structures import Images, Proposals, TextClassifier

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
_CLIP_FEATURES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


def build_backbone(context: BuildContext, backbone: str) -> tuple[nn.Module | None, dict[str, ShapeSpec]]:
    """The backbone and its feature shapes; no module when it is the shared CLIP tower.

    Raises:
        UserError: another name, or a CLIP without feature maps.
    """
    if backbone == "detectron2":
        module = context.backbone()
        return module, module.output_shape()  # type: ignore[operator]
    if backbone == "clip":
        channels = context.clip.dense_channels
        return None, {name: ShapeSpec(channels=channels[name], stride=s) for name, s in _CLIP_FEATURES.items()}
    raise UserError(f"BACKBONE {backbone!r} of the proposer is unknown: choose 'detectron2' or 'clip'.")


def build_decoders(
    shapes: Mapping[str, ShapeSpec],
    embedding_dim: int,
    *,
    num_queries: int,
    conv_dim: int,
    mask_dim: int,
    hidden_dim: int,
    heads: int,
    feedforward_dim: int,
    encoder_layers: int,
    encoder_points: int,
    encoder_feedforward_dim: int,
    encoder_features: Sequence[str],
    decoder_layers: int,
    class_head: str,
    embedding_hidden_dim: int,
    embedding_layers: int,
    dropout: float,
) -> tuple[PixelDecoder, MaskedAttentionDecoder]:
    """Pixel decoder and transformer decoder that fit each other, for backbone features of these shapes."""
    if num_queries < 1 or decoder_layers < 1:
        raise UserError(f"NUM_QUERIES {num_queries} and DECODER_LAYERS {decoder_layers} must both be at least 1.")
    if hidden_dim % heads:
        raise UserError(f"HIDDEN_DIM {hidden_dim} of the proposer must be a multiple of its HEADS, {heads}.")
    pixel_decoder = PixelDecoder(
        shapes,
        width=conv_dim,
        mask_dim=mask_dim,
        num_layers=encoder_layers,
        num_heads=heads,
        num_points=encoder_points,
        ffn_dim=encoder_feedforward_dim,
        dropout=dropout,
        encoder_features=encoder_features,
    )
    head: QueryClassHead | MaskPooledClassHead
    if class_head == "query":
        head = QueryClassHead(hidden_dim, embedding_hidden_dim, embedding_dim, embedding_layers)
    elif class_head == "pooled":
        head = MaskPooledClassHead(hidden_dim, mask_dim, embedding_dim)
    else:
        raise UserError(f"CLASS_HEAD {class_head!r} of the proposer is unknown: choose 'query' or 'pooled'.")
    decoder = MaskedAttentionDecoder(
        width=hidden_dim,
        mask_dim=mask_dim,
        memory_channels=[conv_dim] * len(encoder_features),
        class_head=head,
        num_queries=num_queries,
        num_layers=decoder_layers,
        num_heads=heads,
        ffn_dim=feedforward_dim,
    )
    return pixel_decoder, decoder


@PROPOSERS.register()
class Mask2Former(nn.Module):
    """Proposer: masks from learned queries with masked attention, class logits from a comparison with the texts.

    Args:
        backbone: a Detectron2 backbone, or None to use the CLIP tower that every call passes in (FC-CLIP).
        pixel_decoder: makes mask features and multi-scale memories.
        decoder: makes masks and embeddings.
        criterion: the set criterion it is trained with.
        align_corners: how its masks are resized.
        pixel_mean, pixel_std: normalisation of RGB images in 0..255 for the Detectron2 backbone; CLIP has its own.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: nn.Module | None,
        pixel_decoder: PixelDecoder,
        decoder: MaskedAttentionDecoder,
        criterion: SetCriterion,
        *,
        align_corners: bool = False,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.decoder = decoder
        self.criterion = criterion
        self.align_corners = align_corners
        # Padding to less than the coarsest stride would let the levels disagree in size.
        self.size_divisibility = max(getattr(backbone, "size_divisibility", 0), 32)
        self.register_buffer("pixel_mean", torch.tensor(tuple(pixel_mean)), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(tuple(pixel_std)), persistent=False)

    @classmethod
    def from_options(
        cls,
        context: BuildContext,
        *,
        backbone: str = "detectron2",
        num_queries: int = 100,
        conv_dim: int = 256,
        mask_dim: int = 256,
        hidden_dim: int = 256,
        heads: int = 8,
        feedforward_dim: int = 2048,
        encoder_layers: int = 6,
        encoder_points: int = 4,
        encoder_feedforward_dim: int = 1024,
        encoder_features: Sequence[str] = ("res3", "res4", "res5"),
        decoder_layers: int = 9,
        class_head: str = "query",
        embedding_hidden_dim: int = 1024,
        embedding_layers: int = 2,
        dropout: float = 0.0,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        void_weight: float = 0.1,
        mask_loss: str = "bce",
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
        align_corners: bool = False,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> Mask2Former:
        """Assembles the proposer from its YAML options.

        ``backbone`` is ``"detectron2"`` (MODEL.BACKBONE) or ``"clip"``; ``class_head`` is ``"query"`` (an MLP of the
        query) or ``"pooled"`` (FC-CLIP: query and pooled mask features, own temperature); ``decoder_layers`` counts
        layers, one less than the official DEC_LAYERS; ``num_points`` 0 compares whole masks.
        """
        module, shapes = build_backbone(context, backbone)
        pixel_decoder, decoder = build_decoders(
            shapes,
            context.clip.embed_dim,
            num_queries=num_queries,
            conv_dim=conv_dim,
            mask_dim=mask_dim,
            hidden_dim=hidden_dim,
            heads=heads,
            feedforward_dim=feedforward_dim,
            encoder_layers=encoder_layers,
            encoder_points=encoder_points,
            encoder_feedforward_dim=encoder_feedforward_dim,
            encoder_features=encoder_features,
            decoder_layers=decoder_layers,
            class_head=class_head,
            embedding_hidden_dim=embedding_hidden_dim,
            embedding_layers=embedding_layers,
            dropout=dropout,
        )
        criterion = SetCriterion(
            class_weight=class_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
            void_weight=void_weight,
            mask_loss=mask_loss,
            num_points=num_points,
            oversample_ratio=oversample_ratio,
            importance_sample_ratio=importance_sample_ratio,
        )
        return cls(
            module,
            pixel_decoder,
            decoder,
            criterion,
            align_corners=align_corners,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )

    def forward(
        self,
        images: Images,
        text: TextClassifier,
        clip: Any,
        targets: Any = None,
        batched_inputs: Any = None,
    ) -> Proposals:
        """Mask logits (B, Q, H/4, W/4) and class logits (B, Q, C + 1), void last; in training also of earlier layers.

        With the CLIP backbone the features are passed on as ``clip_features``; the mask losses do not reach the tower.
        """
        clip_features = None
        if self.backbone is None:
            clip_features = clip.dense_features(images.normalized(clip.pixel_mean, clip.pixel_std))
            features = {name: clip_features[name].detach() for name in _CLIP_FEATURES}
        else:
            features = self.backbone(images.normalized(self.pixel_mean, self.pixel_std))
        mask_features, memories = self.pixel_decoder(features)
        mask_features, memories = self.read_texts(mask_features, memories, text)
        supervised = self.training and torch.is_grad_enabled()
        scale = self.decoder.class_head.scale()
        layers = [
            Proposals(
                layer.masks,
                images.padded_size,
                class_logits=text.logits(layer.embeddings, scale),
                align_corners=self.align_corners,
            )
            for layer in self.decoder(memories, mask_features, all_layers=supervised)
        ]
        final = layers.pop()
        final.auxiliary = layers
        final.clip_features = clip_features
        return final

    def read_texts(
        self, mask_features: Tensor, memories: list[Tensor], text: TextClassifier
    ) -> tuple[Tensor, list[Tensor]]:
        """Hook between the decoders: what the texts change in the features; nothing here."""
        return mask_features, memories

    def losses(self, proposals: Proposals, text: TextClassifier, targets: Any) -> dict[str, Tensor]:
        """Weighted set losses of the final prediction and of every auxiliary one.

        Raises:
            UserError: the vocabulary has no void row, which unmatched queries are trained towards.
        """
        if text.void is None:
            raise UserError("The set criterion needs a no-object embedding: set MODEL.VOCABULARY.VOID to True.")
        return self.criterion(proposals, targets)
