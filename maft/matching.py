"""Which proposal belongs to which ground-truth mask: bipartite matching for training, IoU matching for mixed masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import sigmoid_focal_loss

from maft.layers.devices import sent
from maft.structures import Proposals, Targets

# Places of proposals and of targets, see `HungarianMatcher`.
Match = tuple[Tensor, Tensor]


def random_integers(below: Tensor) -> Tensor:
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


def focal_cost(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean focal loss of every prediction with every target: (..., Q, P) and (..., n, P) in [0, 1] -> (..., Q, n)."""
    probability = logits.sigmoid()
    inside = 0.25 * (1 - probability) ** 2 * F.softplus(-logits)
    outside = 0.75 * probability**2 * F.softplus(logits)
    return (inside @ masks.mT + outside @ (1 - masks).mT) / logits.shape[-1]


def cross_entropy_cost(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean binary cross-entropy of every prediction with every target: (..., Q, P), (..., n, P) -> (..., Q, n)."""
    return (F.softplus(-logits) @ masks.mT + F.softplus(logits) @ (1 - masks).mT) / logits.shape[-1]


# Per form of the mask term: the loss of a pixel of mask probability p, and its mean as a cost. Focal loss (Lin et al.,
# ICCV 2017) is -0.25 (1 - p)^2 log p inside the target and -0.75 p^2 log(1 - p) outside; bce -log p and -log(1 - p).
Term = Callable[[Tensor, Tensor], Tensor]
MASK_TERMS: dict[str, tuple[Term, Term]] = {
    "focal": (sigmoid_focal_loss, focal_cost),
    "bce": (partial(F.binary_cross_entropy_with_logits, reduction="none"), cross_entropy_cost),
}


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - (2 sum p g + 1) / (sum p + sum g + 1) of pairs of a mask p and its target g: (N, P), (N, P) -> (N,)."""
    probability = logits.sigmoid()
    return 1 - (2 * (probability * masks).sum(-1) + 1) / (probability.sum(-1) + masks.sum(-1) + 1)


def dice_cost(logits: Tensor, masks: Tensor) -> Tensor:
    """`dice_loss` of every prediction with every target: (..., Q, P) logits, (..., n, P) -> (..., Q, n)."""
    probability = logits.sigmoid()
    total = probability.sum(-1)[..., :, None] + masks.sum(-1)[..., None, :]
    return 1 - (2 * probability @ masks.mT + 1) / (total + 1)


@dataclass(kw_only=True)
class HungarianMatcher:
    """Cheapest one-to-one assignment of proposals to ground truth (MaskFormer; on points as in Mask2Former).

    The cost of proposal q and target n is

        -class_weight * softmax(class logits of q)[label of n] + mask_weight * mean pixel loss + dice_weight * dice loss

    Attributes:
        class_weight, mask_weight, dice_weight: weights of the terms.
        mask_loss: ``"focal"`` or ``"bce"``, the form of the mask term, see `MASK_TERMS`.
        num_points: compare masks at this many uniform points per image; 0 compares all pixels of the prediction, the
            ground truth resized to it (nearest).
    """

    class_weight: float
    mask_weight: float
    dice_weight: float
    mask_loss: str
    num_points: int = 0

    @torch.no_grad()
    def __call__(
        self,
        layers: Sequence[tuple[Tensor, Tensor]],
        truth: Targets,
        counts: Sequence[int],
        points: Sequence[Tensor] | None = None,
    ) -> list[Match]:
        """Matches every image of a batch in every layer; the device is waited for once.

        Args:
            layers: of each decoder layer class logits (B, Q, C + 1), void last, and mask logits (B, Q, h, w).
            truth: the targets of all images, one after the other.
            counts: how many of them each image has.
            points: of each layer (B, num_points, 2) uniform in [0, 1]; None compares all pixels.

        Returns:
            per layer two (sum over images of min(Q, n),) int64 tensors, image by image: places among the B * Q
            proposals, ascending, and among the targets.
        """
        device = truth.labels.device
        with torch.autocast(device.type, enabled=False):
            costs = [
                self._costs(classes.float(), masks.float(), truth, counts, None if points is None else points[layer])
                for layer, (classes, masks) in enumerate(layers)
            ]
        # One copy to the host for all layers and images, as the assignment runs there, and one copy back.
        packed = torch.cat([cost.flatten() for cost in costs]).cpu().numpy()
        # An overflow elsewhere must surface as a non-finite loss, not as an exception of the assignment.
        packed = np.nan_to_num(packed, nan=1e6, posinf=1e6, neginf=-1e6)
        ends = np.cumsum([cost.numel() for cost in costs])[:-1]
        matches = [_assigned(part.reshape(cost.shape), counts) for part, cost in zip(np.split(packed, ends), costs)]
        places = sent(torch.from_numpy(np.concatenate(matches, axis=1)), device)
        return [(own[0], own[1]) for own in places.split([match.shape[1] for match in matches], dim=1)]

    def _costs(
        self, class_logits: Tensor, mask_logits: Tensor, truth: Targets, counts: Sequence[int], points: Tensor | None
    ) -> Tensor:
        """(B, Q, largest n) costs of one layer; what lies behind the targets of an image means nothing."""
        if points is None:
            logits = mask_logits.flatten(2)
            masks = F.interpolate(truth.masks[:, None].float(), mask_logits.shape[-2:], mode="nearest").flatten(1)
        else:
            logits = sample_points(mask_logits, points)
            own = torch.cat([row.expand(count, -1, -1) for row, count in zip(points, counts)])
            masks = sample_points(truth.masks[:, None].float(), own)[:, 0]
        masks = pad_sequence(masks.split(tuple(counts)), batch_first=True)
        labels = pad_sequence(truth.labels.split(tuple(counts)), batch_first=True)
        named = labels[:, None].expand(-1, class_logits.shape[1], -1)
        return (
            -self.class_weight * class_logits.softmax(-1).gather(2, named)
            + self.mask_weight * MASK_TERMS[self.mask_loss][1](logits, masks)
            + self.dice_weight * dice_cost(logits, masks)
        )


def _assigned(costs: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """(2, M) int64 places of the cheapest pairs, given (B, Q, n) costs and how many targets each image has."""
    queries, start, found = costs.shape[1], 0, [np.zeros((2, 0), np.int64)]
    for image, (cost, count) in enumerate(zip(costs, counts)):
        chosen, wanted = linear_sum_assignment(cost[:, :count])
        found.append(np.stack([chosen + image * queries, wanted + start]))
        start += count
    return np.concatenate(found, axis=1)


def ground_truth_slots(targets: Sequence[Targets], slots: int) -> tuple[Tensor, Tensor]:
    """A fixed number of ground-truth masks per image (Mask-Adapter, ground-truth warm-up).

    Masks without any pixel are left out; where more than ``slots`` remain, a random subset is taken; free slots hold
    an empty mask and the label -1.

    Returns:
        masks (B, slots, H, W) bool and labels (B, slots) int64.
    """
    first = targets[0].masks
    masks = first.new_zeros(len(targets), slots, *first.shape[-2:], dtype=torch.bool)
    labels = targets[0].labels.new_full((len(targets), slots), -1)
    for target, mask_row, label_row in zip(targets, masks, labels):
        kept = target.masks.flatten(1).any(-1).nonzero()[:, 0]
        if len(kept) > slots:
            kept = kept[torch.randperm(len(kept), device=first.device)[:slots]]
        mask_row[: len(kept)] = target.masks[kept].bool()
        label_row[: len(kept)] = target.labels[kept]
    return masks, labels


def ground_truth_proposals(targets: Sequence[Targets]) -> Proposals:
    """All ground-truth masks of each image as proposals with labels, also those without any pixel.

    Free slots are not valid, their label is -1; there is at least one slot.
    """
    height, width = targets[0].masks.shape[-2:]
    slots = max(1, *(len(target.labels) for target in targets))
    free = [slots - len(target.labels) for target in targets]
    masks = [F.pad(target.masks.float(), (0, 0, 0, 0, 0, more)) for target, more in zip(targets, free)]
    labels = torch.stack([F.pad(target.labels, (0, more), value=-1) for target, more in zip(targets, free)])
    return Proposals(torch.stack(masks), (height, width), are_logits=False, valid=labels >= 0, labels=labels)


def soft_iou(left: Tensor, right: Tensor, epsilon: float) -> Tensor:
    """Soft IoU of every pair of masks, the IoU of binary ones: (Q, h, w) and (n, h, w) in [0, 1] -> (Q, n) float32.

    sum(a b) / (sum a + sum b - sum(a b) + epsilon) over the pixels of masks a and b.
    """
    # No precision but float32 can sum the pixels of a whole image.
    with torch.autocast(left.device.type, enabled=False):
        a, b = left.flatten(1).float(), right.flatten(1).float()
        common = a @ b.T
        return common / (a.sum(1)[:, None] + b.sum(1) - common + epsilon)


@torch.no_grad()
def match_by_iou(
    mask_logits: Tensor,
    targets: Sequence[Targets],
    *,
    slots: int = 8,
    iou_threshold: float = 0.7,
    mask_threshold: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of a predicted and a ground-truth mask that overlap well (Mask-Adapter, IoU-based matching).

    Every non-empty target n draws one of the predictions q with IoU([p_q >= mask_threshold], g_n) > iou_threshold; a
    prediction may be drawn by several targets. More than ``slots`` pairs of an image are thinned at random; free slots
    hold zero logits, an empty mask and the label -1.

    Args:
        mask_logits: (B, Q, h, w), p before the sigmoid.
        targets: ground truth g at any one size.
        slots: pairs kept per image (official 8).
        iou_threshold: least overlap of a pair (official 0.7).
        mask_threshold: mask probability from which a predicted pixel counts (0.4 on FC-CLIP, 0.5 on MAFT+).

    Returns:
        predicted mask logits (B, slots, h, w), target masks (B, slots, h, w) in [0, 1] (resized bilinearly, so with
        soft edges) and labels (B, slots) int64.
    """
    batch, _, height, width = mask_logits.shape
    predicted = mask_logits.new_zeros(batch, slots, height, width)
    wanted = torch.zeros_like(predicted)
    labels = targets[0].labels.new_full((batch, slots), -1)
    for row, (logits, target) in enumerate(zip(mask_logits, targets)):
        valid = target.masks.flatten(1).any(-1)
        masks = F.interpolate(target.masks[valid][:, None].float(), (height, width), mode="bilinear")[:, 0]
        candidate = soft_iou(logits.float().sigmoid() >= mask_threshold, masks > 0.5, epsilon=1e-6) > iou_threshold
        count = candidate.sum(0)
        # The drawn-th candidate of a target is where the running count of candidates first exceeds the draw.
        queries = (candidate.cumsum(0) > random_integers(count)).int().argmax(0)
        chosen = count.nonzero()[:, 0]
        if len(chosen) > slots:
            chosen = chosen[torch.randperm(len(chosen), device=chosen.device)[:slots]]
        predicted[row, : len(chosen)] = logits[queries[chosen]]
        wanted[row, : len(chosen)] = masks[chosen].to(wanted.dtype)
        labels[row, : len(chosen)] = target.labels[valid][chosen]
    return predicted, wanted, labels
