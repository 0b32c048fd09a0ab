"""Binary masks of varying number per image, as the proposals of one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.structures import Images, Proposals


def proposals_of_masks(masks: Sequence[Tensor], images: Images) -> Proposals:
    """Proposals with values 0 and 1; images with fewer masks than others get slots that are not valid.

    Args:
        masks: (n_i, h_i, w_i) bool for every image, at its size without padding; n_i may be 0.
        images: the batch.

    Returns:
        masks (B, Q, H, W) with Q the largest n_i, but at least 1: downstream code may take a maximum over proposals.
    """
    height, width = images.padded_size
    slots = max(1, *(len(one) for one in masks))
    padded = [
        F.pad(one, (0, width - one.shape[-1], 0, height - one.shape[-2], 0, slots - len(one))).float() for one in masks
    ]
    counts = torch.tensor([len(one) for one in masks], device=images.pixels.device)
    valid = torch.arange(slots, device=counts.device) < counts[:, None]
    return Proposals(torch.stack(padded), images.padded_size, are_logits=False, valid=valid)
