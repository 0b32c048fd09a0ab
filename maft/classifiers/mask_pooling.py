"""Mask pooling, FC-CLIP's mask classifier (Yu et al., NeurIPS 2023): the mean of CLIP's dense features under a mask."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from maft.clip import CLIPEncoder
from maft.interfaces import BuildContext, MaskClassifier
from maft.registry import CLASSIFIERS
from maft.structures import Classification, Images, Proposals, TextClassifier


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

    def forward(self, images: Images, proposals: Proposals, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Logits (B, Q, C), or (B, Q, C + 1) with void last, at CLIP's own temperature, and embeddings (B, Q, D).

        A proposal without a cell of the feature map is not valid.
        """
        # Where CLIP is the proposer's backbone, it runs once.
        dense = (proposals.clip_features or clip.dense_features(images))["dense"]
        inside = self.inside(proposals, (dense.shape[-2], dense.shape[-1]))
        embeddings = clip.tower.pool_masks(dense, inside)
        text = self.texts(text, dense, clip)
        logits = text.logits(embeddings, clip.temperature)
        return Classification(logits, embeddings, inside.flatten(2).any(-1), has_void=text.void is not None)

    def texts(self, text: TextClassifier, dense: Tensor, clip: CLIPEncoder) -> TextClassifier:
        """Hook: what the images change in the texts; nothing here."""
        return text

    @staticmethod
    def inside(proposals: Proposals, size: tuple[int, int]) -> Tensor:
        """(B, Q, *size) bool: cells whose resized mask is above one half (logit 0)."""
        return proposals.resized(size) > (0.0 if proposals.are_logits else 0.5)
