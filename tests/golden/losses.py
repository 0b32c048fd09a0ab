"""MAFT's two losses against the official release."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from golden.case import GoldenCase, golden_case
from maft.interfaces import TrainingStep
from maft.losses.mask_aware import MaskAwareLoss
from maft.losses.self_distillation import self_distillation_loss
from maft.structures import Classification, Images, Proposals, Targets


def padded_targets(case: GoldenCase, size: tuple[int, int]) -> list[Targets]:
    """Recorded ``gt_classes_i`` and ``gt_masks_i``, zero-padded to ``size``."""
    targets = []
    for index in range(case.config["batch"]):
        masks = case.inputs[f"gt_masks_{index}"].bool()
        padding = (0, size[1] - masks.shape[-1], 0, size[0] - masks.shape[-2])
        targets.append(Targets(case.inputs[f"gt_classes_{index}"], F.pad(masks, padding)))
    return targets


@golden_case("maft", "mask_aware_loss")
def mask_aware(case: GoldenCase) -> dict[str, Tensor]:
    size = (case.config["height"], case.config["width"])
    logits = case.inputs["clip_cls"].requires_grad_()
    unused = cast(Any, None)
    step = TrainingStep(
        images=Images(torch.zeros(case.config["batch"], 3, *size, device=case.device), case.config["image_sizes"]),
        text=unused,
        proposals=Proposals(case.inputs["pred_masks"], size, align_corners=True),
        classification=Classification(logits, has_void=True),
        targets=padded_targets(case, size),
        classifier=unused,
        clip=unused,
    )
    loss = MaskAwareLoss(weight=1.0)(step)["loss_mask_aware"]
    loss.backward()
    assert logits.grad is not None
    return {"ma_loss": loss.detach().reshape(1), "grad/clip_cls": logits.grad}


@golden_case("maft", "self_distillation_loss")
def self_distillation(case: GoldenCase) -> dict[str, Tensor]:
    student = case.inputs["student_logits"].requires_grad_()
    loss = self_distillation_loss(student[:, :-1], case.inputs["teacher_logits"][:, :-1])
    loss.backward()
    assert student.grad is not None
    value = loss.detach().reshape(1)
    return {
        "dis_loss": value,
        "dis_loss_weighted": case.config["dis_weight"] * value,
        "grad/student_logits": student.grad,
    }
