"""Mask pooling, FC-CLIP's mask classifier (Yu et al., NeurIPS 2023): the mean of CLIP's dense features under a mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maft.clip import CLIPEncoder
from maft.clip.dense import attention_pool, project_pooled
from maft.errors import UserError
from maft.interfaces import BuildContext, MaskClassifier
from maft.registry import CLASSIFIERS
from maft.structures import Classification, Images, Proposals, TextClassifier


def require_dense_features(clip: CLIPEncoder, classifier: str) -> None:
    """Raises `UserError` when CLIP's image tower has no feature map to pool from."""
    if clip.kind == "vit":
        raise UserError(
            f"MODEL.CLASSIFIER.NAME {classifier} pools dense CLIP features, which the ViT {clip.name} does not have: "
            "set MODEL.CLIP.NAME to a ConvNeXt such as convnext_large_d_320 or a ResNet such as RN50, "
            "or use the classifier IPCLIP or MaskedCrops."
        )


def weighted_mean(features: Tensor, weights: Tensor) -> Tensor:
    """Mean feature under each map of weights, in float32 also under autocast.

    Args:
        features: (B, C, h, w).
        weights: (B, ..., h, w) of sum one.

    Returns:
        (B, ..., C) float32.
    """
    with torch.autocast(features.device.type, enabled=False):
        pooled = weights.float().flatten(-2).flatten(1, -2) @ features.float().flatten(2).transpose(1, 2)
        return pooled.unflatten(1, weights.shape[1:-2])


def mask_pool(features: Tensor, inside: Tensor) -> Tensor:
    """Mean feature under every mask: (B, C, h, w), (B, Q, h, w) bool -> (B, Q, C) float32, zero for an empty mask.

    FC-CLIP's mask pooling: sum(m v) / (sum(m) + 1e-8) over the positions v of the map.
    """
    # In half precision 1e-8 would be zero.
    weights = inside.float()
    return weighted_mean(features, weights / (weights.sum((-2, -1), keepdim=True) + 1e-8))


@CLASSIFIERS.register()
class MaskPooling(MaskClassifier):
    """Pools the dense features of a frozen convolutional CLIP under each mask and projects the mean with CLIP's head.

    A ResNet's attention pool looks at the positions of the mask instead. Nothing is trained.
    """

    @classmethod
    def from_options(cls, context: BuildContext, **options: Any) -> Any:
        """Raises `UserError` when CLIP is a ViT."""
        require_dense_features(context.clip, cls.__name__)
        return cls(**options)

    def forward(self, images: Images, proposals: Proposals, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Logits (B, Q, C), or (B, Q, C + 1) with void last, at CLIP's own temperature, and embeddings (B, Q, D).

        A proposal without a cell of the feature map is not valid.
        """
        # Where CLIP is the proposer's backbone, it runs once.
        dense = (proposals.clip_features or clip.dense_features(images))["dense"]
        inside = self.inside(proposals, (dense.shape[-2], dense.shape[-1]))
        if clip.kind == "resnet":
            embeddings = attention_pool(clip.visual, dense, inside)
        else:
            embeddings = project_pooled(clip.visual, mask_pool(dense, inside))
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
