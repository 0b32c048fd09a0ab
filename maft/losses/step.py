"""What a loss of the mask classifier may look at in one training step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from maft.clip import CLIPEncoder
from maft.structures import Classification, Images, Proposals, Targets, TextClassifier


@dataclass
class TrainingStep:
    """One batch, from raw images to class scores.

    Attributes:
        images: the padded batch.
        text: text embeddings of the training vocabulary.
        proposals: masks outside the autograd graph; for some classifiers mixed with ground truth.
        classification: the classifier's scores of those proposals.
        targets: ground truth of each image, masks at the padded size.
        classifier: the mask classifier itself.
        clip: the frozen CLIP, teacher of distillation losses.
    """

    images: Images
    text: TextClassifier
    proposals: Proposals
    classification: Classification
    targets: list[Targets]
    classifier: nn.Module
    clip: CLIPEncoder
