"""The fusion of masks against its definition."""

import pytest
import torch

from maft.layers.crops import tight_boxes
from maft.layers.mask_fusion import fused_masks


def box_iou(first, second):
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (first, second)]
    return shared / (sum(areas) - shared)


def by_definition(masks, boxes, overlap, box_overlap):
    waiting, result = [index for index, mask in enumerate(masks) if mask.sum() > 0], []
    while waiting:
        leader = waiting.pop(0)
        group = [
            other for other in waiting
            if box_iou(boxes[leader].tolist(), boxes[other].tolist()) > box_overlap
            and torch.minimum(masks[leader], masks[other]).sum()
            > overlap * torch.minimum(masks[leader].sum(), masks[other].sum())
        ]  # fmt: skip
        waiting = [other for other in waiting if other not in group]
        result.append(masks[[leader, *group]].amax(0))
    return torch.stack(result)


@pytest.mark.parametrize("overlap", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("box_overlap", [0.0, 0.2, 0.5])
def test_it_is_its_definition(overlap, box_overlap):
    masks = torch.zeros(12, 40, 50)
    for mask in masks[1:]:
        top, left = torch.randint(0, 30, (2,)).tolist()
        mask[top : top + 15, left : left + 20] = torch.rand(mask[top : top + 15, left : left + 20].shape) * 3
    boxes = tight_boxes(masks > 0)
    found = fused_masks(masks, boxes, overlap=overlap, box_overlap=box_overlap)
    torch.testing.assert_close(found, by_definition(masks, boxes, overlap, box_overlap), rtol=0, atol=0)


def test_no_masks_and_empty_ones_leave_none():
    assert fused_masks(torch.zeros(0, 4, 5), torch.zeros(0, 4)).shape == (0, 4, 5)
    assert fused_masks(torch.zeros(3, 4, 5), torch.zeros(3, 4)).shape == (0, 4, 5)
