"""Turns a stored region and its mask into what CLIP is fine-tuned on (OVSeg section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as TF

# Background of the crops in OVSeg's own data files; not CLIP's mean, which its inference fills crops with.
OFFICIAL_BACKGROUND = (124, 116, 103)

Box = tuple[int, int, int, int]


class RegionTransform:
    """Random crop for training or centre crop for evaluation, the same for region and mask.

    Args:
        size: side of the square output in pixels.
        mean, std: pixel normalisation on the 0..255 scale, 3 values each.
        train: random crop of 90 to 100 % of the area, aspect ratio 3/4 to 4/3; otherwise the short side is resized to
            ``size`` and the centre kept.
        background: official behaviour for OVSeg's data files, which have no masks: after resizing, pixels of exactly
            this colour are background. None: the mask travels with the region.
    """

    def __init__(
        self,
        size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        train: bool,
        background: tuple[int, int, int] | None = None,
    ) -> None:
        self.size = size
        self.mean = torch.tensor(list(mean), dtype=torch.float32).view(3, 1, 1)
        self.std = torch.tensor(list(std), dtype=torch.float32).view(3, 1, 1)
        self.train = train
        self.background = background

    def __call__(self, region: Image.Image, mask: Image.Image | None = None) -> tuple[Tensor, Tensor]:
        """Transforms one region.

        Args:
            region: RGB.
            mask: any mode whose non-zero pixels belong to the region, of the region's size; None: all of them.

        Returns:
            normalised pixels (3, size, size) float32 and the mask (1, size, size) float32 of zeros and ones.
        """
        if self.train:
            top, left, height, width = RandomResizedCrop.get_params(region, [0.9, 1.0], [3 / 4, 4 / 3])
            return self.crop(region, mask, (top, left, height, width))
        return self._finish(
            TF.center_crop(TF.resize(region, [self.size], InterpolationMode.BICUBIC), [self.size, self.size]),
            None
            if mask is None
            else TF.center_crop(TF.resize(mask, [self.size], InterpolationMode.NEAREST), [self.size, self.size]),
        )

    def crop(self, region: Image.Image, mask: Image.Image | None, box: Box) -> tuple[Tensor, Tensor]:
        """The same with a given box (top, left, height, width) in pixels of the region."""
        size = [self.size, self.size]
        return self._finish(
            TF.resized_crop(region, *box, size, InterpolationMode.BICUBIC),
            None if mask is None else TF.resized_crop(mask, *box, size, InterpolationMode.NEAREST),
        )

    def _finish(self, region: Image.Image, mask: Image.Image | None) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(np.array(region.convert("RGB"))).permute(2, 0, 1)
        if self.background is not None:
            shown = (pixels != pixels.new_tensor(self.background).view(3, 1, 1)).any(0, keepdim=True)
        elif mask is not None:
            shown = torch.from_numpy(np.array(mask) != 0)[None]
        else:
            shown = torch.ones_like(pixels[:1], dtype=torch.bool)
        return (pixels - self.mean) / self.std, shown.float()
