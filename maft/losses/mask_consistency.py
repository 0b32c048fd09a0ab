"""Mask-Adapter's consistency loss: a predicted mask and the target it matches shall have the same embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.errors import UserError
from maft.interfaces import Loss, TrainingStep
from maft.layers.distributed import global_mean
from maft.options import Weight
from maft.registry import LOSSES


def mask_consistency_loss(predicted: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
    """Mean of 1 - cos(e_p, e_g) over the pairs of all processes (Mask-Adapter, mask consistency).

    Args:
        predicted: (B, P, D) embeddings e_p of matched predictions.
        wanted: (B, P, D) embeddings e_g of their targets.
        counted: (B, P) bool, pairs that count.

    Returns:
        scalar in [0, 2]; zero with a gradient path without pairs.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        distance = 1 - F.cosine_similarity(predicted.float(), wanted.float(), dim=-1)
        return global_mean((distance * counted).sum(), counted.sum())


@LOSSES.register()
class MaskConsistencyLoss(Loss):
    """Weighted :func:`mask_consistency_loss` over the pairs of Mask-Adapter's mixed masks.

    Args:
        weight: factor of the loss.
        detach_target: no gradient through the target's embedding; the release on MAFT+ has one.
        count_free_slots: official behaviour: slots without a pair are compared too and count in the mean.
    """

    def __init__(self, *, weight: Weight = 5.0, detach_target: bool = True, count_free_slots: bool = False) -> None:
        super().__init__()
        self.weight = weight
        self.detach_target = detach_target
        self.count_free_slots = count_free_slots

    def forward(self, step: TrainingStep) -> dict[str, Tensor]:
        """``{"loss_mask_consistency": scalar}``.

        Raises:
            UserError: the masks come without pairs.
        """
        pairs, embeddings = step.proposals.pairs, step.classification.embeddings
        if pairs is None or embeddings is None or step.proposals.labels is None:
            raise UserError(
                "MaskConsistencyLoss needs pairs of predicted and true masks: use it with the classifier MaskAdapter "
                "and a proposer that predicts masks, or remove it from MODEL.LOSSES."
            )
        predicted, wanted = embeddings[:, pairs[:, 0]], embeddings[:, pairs[:, 1]]
        if self.detach_target:
            wanted = wanted.detach()
        counted = step.proposals.labels[:, pairs[:, 0]] >= 0
        if self.count_free_slots:
            counted = torch.ones_like(counted)
        return {"loss_mask_consistency": self.weight * mask_consistency_loss(predicted, wanted, counted)}
