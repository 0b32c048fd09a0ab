"""Filters of automatic mask generation (Segment Anything, appendix B): stability, duplicates, small regions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torchvision.ops import nms

from maft.crops import tight_boxes


def stability(logits: Tensor, offset: float) -> Tensor:
    """IoU of the masks cut at ``+offset`` and at ``-offset``: (n, h, w) -> (n,); NaN where both are empty."""
    inner = (logits > offset).flatten(1).sum(1)
    outer = (logits > -offset).flatten(1).sum(1)
    return inner / outer


def without_duplicates(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes (n, 4) that no better scored one overlaps by more than the threshold, best first."""
    return nms(boxes.float(), scores.float(), iou_threshold)


def without_small_regions(masks: Tensor, least_area: int, iou_threshold: float) -> Tensor:
    """Fills holes and drops islands below an area, then drops masks that became duplicates of untouched ones.

    Args:
        masks: (n, h, w) bool, none of them empty.
        least_area: in pixels.
        iou_threshold: of boxes, see `without_duplicates`.

    Returns:
        (k, h, w) bool, k <= n.
    """
    if not len(masks):
        return masks
    given = masks.cpu().numpy()
    cleaned = drop_islands(fill_holes(given, least_area), least_area)
    untouched = torch.from_numpy((cleaned == given).all(axis=(1, 2))).to(masks.device)
    result = torch.from_numpy(cleaned).to(masks.device)
    return result[without_duplicates(tight_boxes(result), untouched, iou_threshold)]


def fill_holes(masks: NDArray[np.bool_], least_area: int) -> NDArray[np.bool_]:
    """Masks (n, h, w) with the connected parts of their complement that are below an area filled."""
    labels, sizes = _components(~masks)
    small = sizes < least_area
    small[0] = False
    return masks | small[labels]


def drop_islands(masks: NDArray[np.bool_], least_area: int) -> NDArray[np.bool_]:
    """Masks (n, h, w) without their connected parts below an area; where all are, the largest one stays."""
    labels, sizes = _components(masks)
    owner = np.zeros(len(sizes), dtype=np.int64)
    inside = labels > 0
    owner[labels[inside]] = np.nonzero(inside)[0]
    # Of several values assigned to one place the last stays: the largest component, the first of equal ones.
    order = np.lexsort((-np.arange(len(sizes)), sizes))
    order = order[order > 0]
    largest = np.zeros(len(masks), dtype=np.int64)
    largest[owner[order]] = order
    kept = sizes >= least_area
    kept[largest] = True
    kept[0] = False
    return kept[labels]


def _components(masks: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """8-connected components of all masks in one pass: their labels (n, h, w), 0 outside, and areas by label."""
    within_a_mask = np.zeros((3, 3, 3), dtype=bool)
    within_a_mask[1] = True
    labels, count = ndimage.label(masks, structure=within_a_mask)
    return labels, np.bincount(labels.ravel(), minlength=count + 1)
