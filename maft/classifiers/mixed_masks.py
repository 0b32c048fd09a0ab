"""The masks Mask-Adapter is trained on in its second stage: ground truth, matched predictions and their targets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from maft.layers.grid_masks import grid_probabilities
from maft.matching import Draws, IoUMatcher, ground_truth_slots
from maft.structures import Proposals, Targets

# The adapter reads masks at an eighth of the image, four times CLIP's feature map.
_GRID_STRIDE = 8


@dataclass
class MixedMasks:
    """Mixed-mask training (Mask-Adapter, section 3.3).

    Attributes:
        num_ground_truth: slots of ground-truth masks per image, a random subset where there are more.
        num_matched: pairs of a prediction and the target it overlaps, per image.
        iou_threshold: least overlap of a pair.
        match_threshold: mask probability from which a predicted pixel counts in that overlap.
        mask_threshold: mask probability above which a pixel belongs to the mask the adapter is given.
        threshold_free_slots: official behaviour: a free prediction slot holds the logit 0 and is thresholded like
            any other, so that below one half it becomes a mask of the whole image instead of an empty one.
        draws: source of the random choices.
    """

    num_ground_truth: int = 16
    num_matched: int = 8
    iou_threshold: float = 0.7
    match_threshold: float = 0.4
    mask_threshold: float = 0.5
    threshold_free_slots: bool = False
    draws: Draws = field(default_factory=Draws)

    @torch.no_grad()
    def __call__(self, proposals: Proposals, targets: list[Targets]) -> Proposals:
        """Mixes the masks of a batch.

        Returns:
            masks (B, num_ground_truth + 2 * num_matched, H/8, W/8) in [0, 1] with their ``labels`` (-1 in free
            slots), and as ``pairs`` the slots of each matched prediction and its target.
        """
        true_masks, true_labels = ground_truth_slots(targets, self.num_ground_truth, self.draws)
        matcher = IoUMatcher(
            slots=self.num_matched,
            iou_threshold=self.iou_threshold,
            mask_threshold=self.match_threshold,
            draws=self.draws,
        )
        logits = proposals.masks if proposals.are_logits else proposals.masks.logit(eps=1e-6)
        predicted, wanted, labels = matcher(logits, targets)
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
