"""TextRegion's fusion of masks that show much of one another."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou


def fused_masks(masks: Tensor, boxes: Tensor, *, overlap: float = 0.8, box_overlap: float = 0.2) -> Tensor:
    """Joins masks, each with those after it that are not joined yet and overlap it.

    Two masks overlap where the IoU of their boxes is above ``box_overlap`` and sum(min(a, b)) / min(sum a, sum b) above
    ``overlap``; what is joined is the maximum at every pixel. Masks of sum zero are left out.

    Args:
        masks: (N, h, w) float, not negative, the best first.
        boxes: (N, 4) x0, y0, x1, y1 of theirs, x1 and y1 exclusive.

    Returns:
        (M, h, w), in the order of the first mask of each.
    """
    areas = masks.flatten(1).sum(1)
    masks, boxes, areas = (part[areas > 0] for part in (masks, boxes, areas))
    near = box_iou(boxes.float(), boxes.float()) > box_overlap
    left, joined = torch.ones(len(masks), dtype=torch.bool, device=masks.device), []
    # Greedy, as what is joined to one mask cannot lead another: a step for each mask that is left.
    for first in range(len(masks)):
        if not left[first]:
            continue
        left[first] = False
        others = (left & near[first]).nonzero()[:, 0]
        shared = torch.minimum(masks[others], masks[first]).flatten(1).sum(1)
        others = others[shared / torch.minimum(areas[others], areas[first]) > overlap]
        left[others] = False
        joined.append(torch.cat([masks[first, None], masks[others]]).amax(0))
    return torch.stack(joined) if joined else masks
