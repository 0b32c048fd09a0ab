"""TextRegion's filter of cells that know more about the whole image than about the region they lie in.

Shape letters: N regions, P cells, C channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def local_cells(features: Tensor, inside: Tensor, threshold: float) -> Tensor:
    """Cells that resemble the regions they lie in more than those they do not lie in.

    With A[p, r] the mean cosine of cell p with the cells of region r, the mean of A over the regions that contain p
    exceeds that over the others by at least the threshold; a mean over no region is 0. Empty regions do not count.

    Args:
        features: (P, C) float32.
        inside: (N, P) bool.

    Returns:
        (P,) bool.
    """
    unit, shown = F.normalize(features, dim=-1), inside.to(features.dtype)
    # The mean of cosines with unit vectors is the product with their mean: no P x P matrix is needed.
    likeness = unit @ ((shown @ unit) / shown.sum(-1, keepdim=True).clamp(min=1)).T
    # Leaving the empty ones out by their places would wait for a GPU.
    shown, others = shown.T, (1 - shown.T) * inside.any(-1)
    own = (likeness * shown).sum(-1) / (shown.sum(-1) + 1e-9)
    return own - (likeness * others).sum(-1) / (others.sum(-1) + 1e-9) >= threshold
