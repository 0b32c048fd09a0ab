"""Mask pooling, FC-CLIP's mask classifier: the mean of CLIP's dense features under each mask (FC-CLIP, section 3.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from maft.clip import CLIPEncoder
from maft.errors import UserError
from maft.registry import CLASSIFIERS, BuildContext
from maft.structures import Classification, Images, Proposals, TextClassifier


def require_dense_features(clip: CLIPEncoder, classifier: str) -> None:
    """Raises `UserError` when CLIP's image tower has no feature map to pool from."""
    if clip.kind == "vit":
        raise UserError(
            f"MODEL.CLASSIFIER.NAME {classifier} pools dense CLIP features, which the ViT {clip.name} does not have: "
            "set MODEL.CLIP.NAME to a ConvNeXt such as convnext_large_d_320 or a ResNet such as RN50, "
            "or use the classifier IPCLIP or MaskedCrops."
        )


def dense_features(images: Images, proposals: Proposals, clip: CLIPEncoder) -> Tensor:
    """The input of CLIP's head (B, C, H/32, W/32): the proposer's when CLIP is its backbone, so that it runs once."""
    features = proposals.clip_features
    if features is None:
        features = clip.dense_features(images.normalized(clip.pixel_mean, clip.pixel_std))
    return features["dense"]


def temperature(clip: CLIPEncoder) -> Tensor:
    """CLIP's own factor of the cosine, at most 100."""
    return clip.model.logit_scale.exp().clamp(max=100)


def mask_pool(features: Tensor, inside: Tensor) -> Tensor:
    """Mean feature under every mask: (B, C, h, w), (B, Q, h, w) bool -> (B, Q, C) float32, zero for an empty mask."""
    # The area of an empty mask plus 1e-8 is zero in half precision.
    with torch.autocast(features.device.type, enabled=False):
        weights = inside.flatten(2).float()
        share = weights / (weights.sum(-1, keepdim=True) + 1e-8)
        return share @ features.float().flatten(2).transpose(1, 2)


@CLASSIFIERS.register()
class MaskPooling(nn.Module):
    """Pools the dense features of a frozen convolutional CLIP under each mask and projects the mean with CLIP's head.

    A ResNet's attention pool looks at the positions of the mask instead. Nothing is trained.
    """

    @classmethod
    def from_options(cls, context: BuildContext) -> MaskPooling:
        """Raises `UserError` when CLIP is a ViT."""
        require_dense_features(context.clip, "MaskPooling")
        return cls()

    def forward(self, images: Images, proposals: Proposals, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Names every proposal.

        Returns:
            logits (B, Q, C), or (B, Q, C + 1) with void last, scaled by CLIP's own temperature; embeddings
            (B, Q, D); a proposal without a cell of the feature map is not valid.
        """
        dense = dense_features(images, proposals, clip)
        inside = self.inside(proposals, (dense.shape[-2], dense.shape[-1]))
        if clip.kind == "resnet":
            embeddings = clip.attention_pool(dense, inside)
        else:
            embeddings = clip.project_pooled(mask_pool(dense, inside))
        text = self.texts(text, dense, clip)
        with torch.autocast(dense.device.type, enabled=False):
            logits = text.logits(embeddings.float(), temperature(clip))
        return Classification(logits, embeddings, inside.flatten(2).any(-1), has_void=text.void is not None)

    def texts(self, text: TextClassifier, dense: Tensor, clip: Any) -> TextClassifier:
        """Hook: what the images change in the texts; nothing here."""
        return text

    @staticmethod
    def inside(proposals: Proposals, size: tuple[int, int]) -> Tensor:
        """(B, Q, *size) bool: cells whose resized mask is above one half (logit 0)."""
        return proposals.resized(size) > (0.0 if proposals.are_logits else 0.5)
