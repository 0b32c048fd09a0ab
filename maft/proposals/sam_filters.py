"""What the automatic mask generator of SAM filters masks by: stability, holes and islands."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from maft.layers.crops import tight_boxes


def stability(logits: Tensor, offset: float) -> Tensor:
    """IoU of the masks cut at ``+offset`` and at ``-offset``: (n, h, w) -> (n,); NaN where both are empty."""
    inner = (logits > offset).flatten(1).sum(1)
    outer = (logits > -offset).flatten(1).sum(1)
    return inner / outer


def without_small_regions(masks: Tensor, least_area: int, iou_threshold: float) -> Tensor:
    """Fills holes and drops islands below an area, then drops masks that became duplicates of untouched ones.

    Args:
        masks: (n, h, w) bool, none of them empty.
        least_area: in pixels.
        iou_threshold: of boxes.

    Returns:
        (k, h, w) bool, k <= n.
    """
    if not len(masks):
        return masks
    cleaned = [drop_islands(fill_holes(mask, least_area), least_area) for mask in masks.cpu().numpy()]
    result = torch.from_numpy(np.stack(cleaned)).to(masks.device)
    untouched = (result == masks).flatten(1).all(1)
    return result[nms(tight_boxes(result).float(), untouched.float(), iou_threshold)]


def fill_holes(mask: NDArray[np.bool_], least_area: int) -> NDArray[np.bool_]:
    """A mask (h, w) with the connected parts of its complement that are below an area filled."""
    labels, areas = _components(~mask)
    small = areas < least_area
    small[0] = False
    return mask | small[labels]


def drop_islands(mask: NDArray[np.bool_], least_area: int) -> NDArray[np.bool_]:
    """A mask (h, w) without its connected parts below an area; where all are, the largest one stays."""
    labels, areas = _components(mask)
    areas[0] = 0
    kept = areas >= least_area
    kept[areas.argmax()] = True
    kept[0] = False
    return kept[labels]


def _components(mask: NDArray[np.bool_]) -> tuple[Any, Any]:
    """8-connected components of a mask: their labels (h, w) int32, 0 outside, and areas by label, (count,) int32."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return labels, statistics[:, cv2.CC_STAT_AREA]
