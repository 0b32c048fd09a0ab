"""From masks and class probabilities to semantic, panoptic and instance results: pure functions."""

from maft.inference.instance import instance_inference
from maft.inference.panoptic import panoptic_inference
from maft.inference.resized_masks import ResizedMasks
from maft.inference.results import image_result, label_options
from maft.inference.semantic import (
    has_background,
    keep_best_proposals,
    labels_of_scores,
    semantic_result,
    tempered_confidence,
)

__all__ = [
    "ResizedMasks",
    "has_background",
    "image_result",
    "instance_inference",
    "keep_best_proposals",
    "label_options",
    "labels_of_scores",
    "panoptic_inference",
    "semantic_result",
    "tempered_confidence",
]
