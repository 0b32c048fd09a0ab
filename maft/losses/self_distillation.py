"""MAFT's self-distillation: the fine-tuned tower keeps naming whole images as CLIP does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.errors import UserError
from maft.losses.step import TrainingStep
from maft.registry import LOSSES


def self_distillation_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """SmoothL1 between class probabilities of whole images (MAFT, section 3.3, self-distillation loss).

    Args:
        student_logits: (B, C) scaled cosines without the void column, with gradient.
        teacher_logits: (B, C), used without gradient.

    Returns:
        scalar, the mean over B x C.
    """
    student, teacher = student_logits.float().softmax(-1), teacher_logits.detach().float().softmax(-1)
    return F.smooth_l1_loss(student, teacher)


@LOSSES.register()
class SelfDistillationLoss(nn.Module):
    """Weighted :func:`self_distillation_loss` over the training vocabulary.

    Args:
        weight: factor of the loss; 0.1 in the released code, 1 in the paper.
    """

    def __init__(self, *, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, step: TrainingStep) -> dict[str, Tensor]:
        """``{"loss_self_distillation": scalar}``.

        Raises:
            UserError: the classifier has no image tower of its own.
        """
        encode = getattr(step.classifier, "encode_image", None)
        if encode is None:
            raise UserError(
                f"SelfDistillationLoss needs a classifier that fine-tunes an image tower, which "
                f"{type(step.classifier).__name__} does not: use IPCLIP or remove the loss from MODEL.LOSSES."
            )
        student = encode(step.images, step.clip)
        with torch.no_grad():
            teacher = encode(step.images, step.clip, teacher=True)
        with torch.autocast(student.device.type, enabled=False):
            logits = [step.text.logits(features.float(), void=False) for features in (student, teacher)]
        return {"loss_self_distillation": self.weight * self_distillation_loss(*logits)}
