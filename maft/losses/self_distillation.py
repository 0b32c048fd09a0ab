"""MAFT's self-distillation: the fine-tuned tower keeps naming whole images as CLIP does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.interfaces import Loss, TrainingStep
from maft.options import Weight
from maft.registry import LOSSES


def self_distillation_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """SmoothL1(softmax(s), softmax(t)) of the tuned and of CLIP's own tower on whole images (MAFT, self-distillation).

    Args:
        student_logits: s, (B, C) scaled cosines without the void column, with gradient.
        teacher_logits: t, (B, C), used without gradient.

    Returns:
        scalar, the mean over B x C.
    """
    student, teacher = student_logits.float().softmax(-1), teacher_logits.detach().float().softmax(-1)
    return F.smooth_l1_loss(student, teacher)


@LOSSES.register()
class SelfDistillationLoss(Loss):
    """Weighted :func:`self_distillation_loss` over the training vocabulary.

    Args:
        weight: factor of the loss; 0.1 in the released code, 1 in the paper.
    """

    reads_images = True

    def __init__(self, *, weight: Weight = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, step: TrainingStep) -> dict[str, Tensor]:
        """``{"loss_self_distillation": scalar}``.

        Raises:
            UserError: the classifier has no image tower of its own.
        """
        student = step.image_embeddings
        if student is None:
            student = step.classifier.encode_image(step.images, step.clip)
        with torch.no_grad():
            teacher = step.classifier.encode_image(step.images, step.clip, teacher=True)
        logits = [step.text.logits(features, void=False) for features in (student, teacher)]
        return {"loss_self_distillation": self.weight * self_distillation_loss(*logits)}
