"""CLIP's contrastive loss over the global batch of all processes (Radford et al. 2021, section 2.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.distributed import gathered


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """Mean of the two cross-entropies between the images and the texts of the global batch.

    Pair i is the only positive of image i and of text i: equal nouns in a batch are each other's negatives, as in
    OVSeg's fine-tuning. Every process computes the whole loss, with gradients through its own rows; their average over
    the processes is the gradient of one process with the whole batch.

    Args:
        image_features, text_features: (n, D) of unit length, n pairs of this process, the same n in each.
        logit_scale: scalar, factor of the cosine (not its logarithm).

    Returns:
        scalar.
    """
    images, texts = gathered(image_features), gathered(text_features)
    logits = logit_scale * images @ texts.T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
