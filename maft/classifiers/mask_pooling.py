"""Mask pooling, FC-CLIP's mask classifier (Yu et al., NeurIPS 2023): the mean of CLIP's dense features under a mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maft.clip import CLIPEncoder
from maft.interfaces import BuildContext, MaskClassifier
from maft.registry import CLASSIFIERS
from maft.structures import Classification, EmbeddedMasks, Images, Proposals, TextClassifier


@CLASSIFIERS.register()
class MaskPooling(MaskClassifier):
    """Pools the dense features of a frozen CLIP under each mask and projects the mean with CLIP's head.

    The attention pool of a ResNet, and a learned query's, looks at the positions of the mask instead. Nothing is
    trained.
    """

    @classmethod
    def from_options(cls, context: BuildContext, **options: Any) -> Any:
        """Raises `UserError` when CLIP's image tower has no dense features."""
        context.clip.tower.require("dense features", f"MODEL.CLASSIFIER.NAME {cls.__name__}")
        return cls(**options)

    def embed(self, images: Images, proposals: Proposals, clip: CLIPEncoder) -> EmbeddedMasks:
        """Embeddings (B, Q, D) of the pooled features; a proposal without a cell of the feature map is not valid."""
        # Where CLIP is the proposer's backbone, it runs once.
        dense = (proposals.clip_features or clip.dense_features(images))["dense"]
        inside = self.inside(proposals, (dense.shape[-2], dense.shape[-1]))
        embeddings = clip.tower.pool_masks(dense, inside)
        return EmbeddedMasks(embeddings, inside.flatten(2).any(-1), self.context(dense, clip))

    def compare(self, embedded: EmbeddedMasks, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Logits (B, Q, C), or (B, Q, C + 1) with void last, at CLIP's own temperature."""
        text = self.texts(text, embedded.context)
        logits = text.logits(embedded.embeddings, clip.temperature)
        return Classification(logits, embedded.embeddings, embedded.valid, has_void=text.void is not None)

    def context(self, dense: Tensor, clip: CLIPEncoder) -> dict[str, list[Tensor]]:
        """Hook: what of the images `texts` reads; nothing here."""
        return {}

    def texts(self, text: TextClassifier, context: Mapping[str, list[Tensor]]) -> TextClassifier:
        """Hook: what the images change in the texts; nothing here."""
        return text

    @staticmethod
    def inside(proposals: Proposals, size: tuple[int, int]) -> Tensor:
        """(B, Q, *size) bool: cells whose resized mask is above one half (logit 0)."""
        return proposals.resized(size) > (0.0 if proposals.are_logits else 0.5)
