"""FreeSeg's mask generator (Qin et al., CVPR 2023), which MAFT fine-tunes CLIP on: Mask2Former that reads the texts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from maft.proposals.criterion import SetCriterion
from maft.proposals.mask2former import IMAGENET_MEAN, IMAGENET_STD, Mask2Former, build_backbone, build_decoders
from maft.proposals.pixel_decoder import PixelDecoder
from maft.proposals.text_interaction import TextInteraction
from maft.proposals.transformer_decoder import MaskedAttentionDecoder
from maft.registry import PROPOSERS, BuildContext
from maft.structures import TextClassifier


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
