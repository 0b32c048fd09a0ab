"""Runs the recorded cases of the Mask2Former family: backbone, pixel decoder, decoders, criterion and matching."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.golden.case import GoldenCase, golden_case
from maft.golden.draws import RecordedDraws
from maft.matching import IoUMatcher, ground_truth_slots
from maft.proposals.criterion import SetCriterion
from maft.structures import Proposals, Targets


def _layers(case: GoldenCase, logits_name: str, masks_name: str, padded_size: tuple[int, int]) -> Proposals:
    """The recorded predictions of all decoder layers, with gradients; the last one is the final one."""
    layers = []
    while logits_name.format(len(layers)) in case.inputs:
        logits = case.inputs[logits_name.format(len(layers))].requires_grad_()
        masks = case.inputs[masks_name.format(len(layers))].requires_grad_()
        layers.append(Proposals(masks, padded_size, class_logits=logits))
    final = layers.pop()
    final.auxiliary = layers
    return final


def _targets(case: GoldenCase, labels_name: str, masks_name: str) -> list[Targets]:
    inputs, targets = case.inputs, []
    while labels_name.format(len(targets)) in inputs:
        index = len(targets)
        targets.append(Targets(inputs[labels_name.format(index)], inputs[masks_name.format(index)].bool()))
    return targets


def _criterion_outputs(
    criterion: SetCriterion, proposals: Proposals, targets: list[Targets], logits_name: str, masks_name: str
) -> dict[str, Tensor]:
    """Unweighted losses, their weighted total and its gradients."""
    losses = criterion.unweighted(proposals, targets)
    weights = {name: weight for name, weight in criterion.weights.items()}
    total = torch.stack([value * weights["_".join(name.split("_")[:2])] for name, value in losses.items()]).sum()
    total.backward()
    outputs = dict(losses, total_weighted=total)
    for index, layer in enumerate([*proposals.auxiliary, proposals]):
        assert layer.class_logits is not None
        outputs[logits_name.format(index)] = layer.class_logits.grad
        outputs[masks_name.format(index)] = layer.masks.grad
    return {name: value.detach() for name, value in outputs.items()}


@golden_case("maft", "set_criterion")
def maft_set_criterion(case: GoldenCase) -> dict[str, Tensor]:
    config = case.config
    criterion = SetCriterion(
        class_weight=config["class_weight"],
        mask_weight=config["mask_weight"],
        dice_weight=config["dice_weight"],
        void_weight=config["no_object_weight"],
        mask_loss="focal",
    )
    targets = _targets(case, "labels_{}", "masks_{}")
    size = tuple(targets[0].masks.shape[-2:])
    proposals = _layers(case, "layer_{}/pred_logits", "layer_{}/pred_masks", size)
    grad = "grad/layer_{}/"
    outputs = _criterion_outputs(criterion, proposals, targets, grad + "pred_logits", grad + "pred_masks")
    outputs = {name: value.reshape(1) if value.ndim == 0 else value for name, value in outputs.items()}
    for index, layer in enumerate([*proposals.auxiliary, proposals]):
        matches = criterion.matcher(layer.class_logits, layer.masks, targets)
        for image, match in enumerate(matches):
            outputs[f"match/layer_{index}/image_{image}"] = torch.stack(match)
    return outputs


@golden_case("maskadapter", "set_criterion")
def maskadapter_set_criterion(case: GoldenCase) -> dict[str, Tensor]:
    config = case.config
    criterion = SetCriterion(
        class_weight=config["class_weight"],
        mask_weight=config["mask_weight"],
        dice_weight=config["dice_weight"],
        void_weight=config["no_object_weight"],
        mask_loss="bce",
        num_points=config["num_points"],
        oversample_ratio=config["oversample_ratio"],
        importance_sample_ratio=config["importance_sample_ratio"],
        draws=RecordedDraws(case),
    )
    targets = _targets(case, "gt_classes/{}", "gt_masks/{}")
    size = tuple(targets[0].masks.shape[-2:])
    proposals = _layers(case, "pred_logits/{}", "pred_masks/{}", size)
    return _criterion_outputs(criterion, proposals, targets, "grad/pred_logits/{}", "grad/pred_masks/{}")


@golden_case("maskadapter", "iou_matching", "iou_matching_maft")
def iou_matching(case: GoldenCase) -> dict[str, Tensor]:
    config, draws = case.config, RecordedDraws(case)
    height, width = case.record["inputs_json"]["padded_size"]
    targets = [
        Targets(t.labels, F.pad(t.masks, (0, width - t.masks.shape[-1], 0, height - t.masks.shape[-2])))
        for t in _targets(case, "gt_classes/{}", "gt_masks/{}")
    ]
    masks, labels = ground_truth_slots(targets, config["num_gt_masks"], draws)
    matcher = IoUMatcher(
        slots=config["max_matches"],
        iou_threshold=config["iou_threshold"],
        mask_threshold=config["pred_binarise_threshold"],
        draws=draws,
    )
    predicted, wanted, matched_labels = matcher(case.inputs["pred_masks"], targets)
    return {
        "masks": masks,
        "labels": labels,
        "matched_pred_masks": predicted,
        "matched_target_masks": wanted,
        "matched_labels": matched_labels,
    }
