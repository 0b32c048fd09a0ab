"""Which proposal belongs to which ground-truth mask: bipartite matching for training, IoU matching for mixed masks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from maft.structures import Targets

Match = tuple[Tensor, Tensor]


class Draws:
    """The random draws of matching and point sampling, from torch's generators; a subclass may replay recorded ones."""

    def rand(self, *size: int, device: torch.device) -> Tensor:
        """Uniform numbers in [0, 1)."""
        return torch.rand(*size, device=device)

    def randperm(self, count: int, device: torch.device) -> Tensor:
        """A random permutation of ``count`` numbers."""
        return torch.randperm(count, device=device)

    def integers(self, below: Tensor) -> Tensor:
        """One uniform integer in [0, below[i]) for every entry of ``below`` (n,) int64; 0 where that range is empty."""
        drawn = (torch.rand(below.shape, device=below.device) * below).long()
        # The product may round up to the bound itself.
        return drawn.minimum((below - 1).clamp(min=0))


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points, zero outside (align_corners=False).

    Args:
        maps: (N, C, h, w).
        points: (N, P, 2) as (x, y) in [0, 1].

    Returns:
        (N, C, P).
    """
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]


def focal_cost(logits: Tensor, masks: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Mean focal loss of every prediction with every target: (Q, P) logits, (n, P) in [0, 1] -> (Q, n)."""
    probability = logits.sigmoid()
    positive = alpha * (1 - probability) ** gamma * F.softplus(-logits)
    negative = (1 - alpha) * probability**gamma * F.softplus(logits)
    return (positive @ masks.T + negative @ (1 - masks).T) / logits.shape[1]


def cross_entropy_cost(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean binary cross-entropy of every prediction with every target: (Q, P) logits, (n, P) -> (Q, n)."""
    return (F.softplus(-logits) @ masks.T + F.softplus(logits) @ (1 - masks).T) / logits.shape[1]


def dice_cost(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice loss, smoothed by one, of every prediction with every target: (Q, P) logits, (n, P) -> (Q, n)."""
    probability = logits.sigmoid()
    total = probability.sum(-1)[:, None] + masks.sum(-1)[None]
    return 1 - (2 * probability @ masks.T + 1) / (total + 1)


class HungarianMatcher:
    """Cheapest one-to-one assignment of proposals to ground truth (MaskFormer section 3.2, Mask2Former section 3.3).

    The cost is class_weight * (- softmax probability of the class) + mask_weight * mask cost + dice_weight * dice.

    Args:
        class_weight: weight of the class term.
        mask_weight: weight of the mask term.
        dice_weight: weight of the dice term.
        mask_loss: ``"focal"`` or ``"bce"``, the form of the mask term.
        num_points: compare masks at this many uniform points per image; 0 compares all pixels of the prediction, the
            ground truth resized to it (nearest).
        draws: source of the points.
    """

    def __init__(
        self,
        *,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        mask_loss: str,
        num_points: int = 0,
        draws: Draws | None = None,
    ) -> None:
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.mask_cost = {"focal": focal_cost, "bce": cross_entropy_cost}[mask_loss]
        self.num_points = num_points
        self.draws = draws or Draws()

    @torch.no_grad()
    def __call__(self, class_logits: Tensor, mask_logits: Tensor, targets: Sequence[Targets]) -> list[Match]:
        """Matches every image of a batch.

        Args:
            class_logits: (B, Q, C + 1), void last.
            mask_logits: (B, Q, h, w).
            targets: ground truth of each image, n masks at any one size.

        Returns:
            per image two (min(Q, n),) int64 tensors: proposal and target indices, proposals ascending.
        """
        with torch.autocast(class_logits.device.type, enabled=False):
            costs = [
                self._cost(classes.float(), masks.float(), target)
                for classes, masks, target in zip(class_logits, mask_logits, targets)
            ]
        # One copy to the host for the whole batch: the assignment itself runs there.
        matrix = torch.cat(costs, dim=1).cpu().numpy()
        # An overflow elsewhere must surface as a non-finite loss, not as an exception of the assignment.
        matrix = np.nan_to_num(matrix, nan=1e6, posinf=1e6, neginf=-1e6)
        columns = np.cumsum([0] + [cost.shape[1] for cost in costs])
        device = mask_logits.device
        matches = []
        for start, stop in pairwise(columns):
            queries, chosen = linear_sum_assignment(matrix[:, start:stop])
            matches.append((torch.as_tensor(queries, device=device), torch.as_tensor(chosen, device=device)))
        return matches

    def _cost(self, class_logits: Tensor, mask_logits: Tensor, target: Targets) -> Tensor:
        """(Q, n) cost of one image."""
        masks = target.masks.float()
        if self.num_points:
            points = self.draws.rand(1, self.num_points, 2, device=mask_logits.device)
            logits = sample_points(mask_logits[None], points)[0]
            masks = sample_points(masks[None], points)[0] if len(masks) else masks.new_zeros(0, self.num_points)
        else:
            logits = mask_logits.flatten(1)
            masks = _nearest(masks, (mask_logits.shape[-2], mask_logits.shape[-1])).flatten(1)
        return (
            -self.class_weight * class_logits.softmax(-1)[:, target.labels]
            + self.mask_weight * self.mask_cost(logits, masks)
            + self.dice_weight * dice_cost(logits, masks)
        )


def _nearest(masks: Tensor, size: tuple[int, int]) -> Tensor:
    if len(masks) == 0:
        return masks.new_zeros(0, *size)
    return F.interpolate(masks[None], size=size, mode="nearest")[0]


def ground_truth_slots(targets: Sequence[Targets], slots: int, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
    """A fixed number of ground-truth masks per image (Mask-Adapter, ground-truth warm-up).

    Masks without any pixel are left out; where more than ``slots`` remain, a random subset is taken; free slots hold
    an empty mask and the label -1.

    Returns:
        masks (B, slots, H, W) bool and labels (B, slots) int64.
    """
    draws = draws or Draws()
    first = targets[0].masks
    masks = first.new_zeros(len(targets), slots, *first.shape[-2:], dtype=torch.bool)
    labels = targets[0].labels.new_full((len(targets), slots), -1)
    for target, mask_row, label_row in zip(targets, masks, labels):
        kept = target.masks.flatten(1).any(-1).nonzero()[:, 0]
        if len(kept) > slots:
            kept = kept[draws.randperm(len(kept), first.device)[:slots]]
        mask_row[: len(kept)] = target.masks[kept].bool()
        label_row[: len(kept)] = target.labels[kept]
    return masks, labels


def mask_iou(left: Tensor, right: Tensor) -> Tensor:
    """IoU of every pair of binary masks: (Q, h, w) and (n, h, w) -> (Q, n), with 1e-6 added to the union."""
    a, b = left.flatten(1).float(), right.flatten(1).float()
    intersection = a @ b.T
    return intersection / (a.sum(1)[:, None] + b.sum(1)[None] - intersection + 1e-6)


class IoUMatcher:
    """Pairs of a predicted and a ground-truth mask that overlap well (Mask-Adapter, mixed-mask training).

    Every non-empty target draws one of the predictions whose IoU with it exceeds the threshold; a prediction may be
    drawn by several targets. More than ``slots`` pairs are thinned at random; free slots hold zero logits, an empty
    mask and the label -1.

    Args:
        slots: pairs kept per image (official 8).
        iou_threshold: least overlap of a pair (official 0.7).
        mask_threshold: mask probability from which a predicted pixel counts (0.4 on FC-CLIP, 0.5 on MAFT+).
        draws: source of the random choices.
    """

    def __init__(
        self, *, slots: int = 8, iou_threshold: float = 0.7, mask_threshold: float = 0.5, draws: Draws | None = None
    ) -> None:
        self.slots = slots
        self.iou_threshold = iou_threshold
        self.mask_threshold = mask_threshold
        self.draws = draws or Draws()

    @torch.no_grad()
    def __call__(self, mask_logits: Tensor, targets: Sequence[Targets]) -> tuple[Tensor, Tensor, Tensor]:
        """Matches every image of a batch.

        Args:
            mask_logits: (B, Q, h, w).
            targets: ground truth at any one size.

        Returns:
            predicted mask logits (B, slots, h, w), target masks (B, slots, h, w) in [0, 1] (resized bilinearly, so
            with soft edges) and labels (B, slots) int64.
        """
        batch, _, height, width = mask_logits.shape
        predicted = mask_logits.new_zeros(batch, self.slots, height, width)
        wanted = torch.zeros_like(predicted)
        labels = targets[0].labels.new_full((batch, self.slots), -1)
        for row, (logits, target) in enumerate(zip(mask_logits, targets)):
            valid = target.masks.flatten(1).any(-1).nonzero()[:, 0]
            if not len(valid):
                continue
            masks = F.interpolate(target.masks[valid][None].float(), (height, width), mode="bilinear")[0]
            iou = mask_iou(logits.sigmoid() >= self.mask_threshold, masks > 0.5)
            queries, chosen = self._pairs(iou)
            predicted[row, : len(queries)] = logits[queries]
            wanted[row, : len(queries)] = masks[chosen].to(wanted.dtype)
            labels[row, : len(queries)] = target.labels[valid][chosen]
        return predicted, wanted, labels

    def _pairs(self, iou: Tensor) -> Match:
        """At most ``slots`` (query, target) pairs from an IoU matrix (Q, n)."""
        candidate = iou > self.iou_threshold
        count = candidate.sum(0)
        drawn = self.draws.integers(count)
        # The drawn-th candidate of a column is where the running count of candidates first exceeds the draw.
        queries = (candidate.cumsum(0) > drawn).int().argmax(0)
        chosen = count.nonzero()[:, 0]
        if len(chosen) > self.slots:
            chosen = chosen[self.draws.randperm(len(chosen), iou.device)[: self.slots]]
        return queries[chosen], chosen
