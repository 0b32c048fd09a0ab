"""The masks Mask-Adapter is trained on in its second stage: ground truth, matched predictions and their targets."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from maft.errors import UserError
from maft.interfaces import MaskClassifier
from maft.layers.grid_masks import grid_probabilities
from maft.matching import ground_truth_slots, match_by_iou
from maft.options import Fraction
from maft.structures import Proposals, Targets

# The adapter reads masks at an eighth of the image, four times CLIP's feature map.
_GRID_STRIDE = 8
Slots = Annotated[int, Field(ge=0, le=10_000)]


class MixedMaskTraining(MaskClassifier):
    """A classifier that trains on mixed masks (Mask-Adapter's mixed-mask training with IoU-based matching).

    Args:
        num_ground_truth: slots of ground-truth masks per image, a random subset where there are more.
        num_matched: pairs of a prediction and the target it overlaps, per image.
        iou_threshold: least overlap of a pair.
        match_threshold: mask probability from which a predicted pixel counts in that overlap.
        mask_threshold: mask probability above which a pixel belongs to the mask the classifier is given.
        threshold_free_slots: official behaviour: a free prediction slot holds the logit 0 and is thresholded like
            any other, so that below one half it becomes a mask of the whole image instead of an empty one.

    Raises:
        UserError: there would be no mask.
    """

    def __init__(
        self,
        *,
        num_ground_truth: Slots = 16,
        num_matched: Slots = 8,
        iou_threshold: Fraction = 0.7,
        match_threshold: Fraction = 0.4,
        mask_threshold: Fraction = 0.5,
        threshold_free_slots: bool = False,
    ) -> None:
        super().__init__()
        if num_ground_truth + num_matched == 0:
            raise UserError("NUM_GROUND_TRUTH and NUM_MATCHED are both 0, so that there is no mask to train on.")
        self.num_ground_truth, self.num_matched = num_ground_truth, num_matched
        self.iou_threshold, self.match_threshold, self.mask_threshold = iou_threshold, match_threshold, mask_threshold
        self.threshold_free_slots = threshold_free_slots

    def training_proposals(self, proposals: Proposals, targets: list[Targets]) -> Proposals:
        """Ground-truth proposals as they come (warm-up stage); predicted ones become mixed masks (second stage)."""
        return proposals if proposals.labels is not None else self.mixed_masks(proposals, targets)

    @torch.no_grad()
    def mixed_masks(self, proposals: Proposals, targets: list[Targets]) -> Proposals:
        """Mixes the masks of a batch.

        Returns:
            masks (B, num_ground_truth + 2 * num_matched, H/8, W/8) in [0, 1] with their ``labels`` (-1 in free
            slots), and as ``pairs`` the slots of each matched prediction and its target.
        """
        true_masks, true_labels = ground_truth_slots(targets, self.num_ground_truth)
        predicted, wanted, labels = match_by_iou(
            proposals.masks if proposals.are_logits else proposals.masks.logit(eps=1e-6),
            targets,
            slots=self.num_matched,
            iou_threshold=self.iou_threshold,
            mask_threshold=self.match_threshold,
        )
        binary = predicted.sigmoid() > self.mask_threshold
        if not self.threshold_free_slots:
            binary &= (labels >= 0)[..., None, None]
        grid = (proposals.padded_size[0] // _GRID_STRIDE, proposals.padded_size[1] // _GRID_STRIDE)

        def on_grid(masks: Tensor) -> Tensor:
            return grid_probabilities(replace(proposals, masks=masks.float(), are_logits=False), grid)

        all_labels = torch.cat([true_labels, labels, labels], dim=1)
        slots = self.num_ground_truth + torch.arange(self.num_matched, device=labels.device)
        return Proposals(
            masks=torch.cat([on_grid(true_masks), on_grid(binary), on_grid(wanted)], dim=1),
            padded_size=proposals.padded_size,
            are_logits=False,
            valid=all_labels >= 0,
            labels=all_labels,
            pairs=torch.stack([slots, slots + self.num_matched], dim=1),
            clip_features=proposals.clip_features,
        )
