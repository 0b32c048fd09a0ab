"""What the classifiers that read a convolutional CLIP's feature map share."""

from __future__ import annotations

from torch import Tensor

from maft.clip import CLIPEncoder
from maft.errors import UserError
from maft.structures import Images, Proposals


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
