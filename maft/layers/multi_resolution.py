"""An image seen as a whole and in crops, and the maps of all views joined to one (TextRegion).

Shape letters: n views, C channels, (gh, gw) cells of a view.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def squashed(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image (3, h, w) in 0..255 resized as OpenCV resizes bytes, without antialiasing: (3, *size) float32."""
    import cv2

    pixels = image.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    resized = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(resized).permute(2, 0, 1).to(image.device, torch.float32)


@dataclass(frozen=True)
class MultiResolution:
    """The views of an image: all of it, then its crops, row by row.

    As many crops as fit lie beside each other along a side, at least one, and share it; all have one size, so that the
    last ones of a side may overlap those before. Where one crop is the whole image there is no second view of it.

    Attributes:
        size: (height, width) of the image.
        crop_size: (height, width) that every view is resized to, its aspect ratio ignored.
        halves: the left and the right half of the image are two views in the place of all of it.
    """

    size: tuple[int, int]
    crop_size: tuple[int, int]
    halves: bool = False

    @property
    def counts(self) -> tuple[int, int]:
        """Crops along height and width."""
        (height, width), (high, wide) = self.size, self.crop_size
        return max(height // high, 1), max(width // wide, 1)

    def _wholes(self) -> list[tuple[int, int, int, int]]:
        height, width = self.size
        if not self.halves or width < 2:
            return [(0, 0, height, width)]
        return [(0, 0, height, width // 2), (0, width // 2, height, width - width // 2)]

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Top, left, height and width of every view."""
        high, wide = (-(-side // count) for side, count in zip(self.size, self.counts, strict=True))
        tops, lefts = (
            [min(index * length, side - length) for index in range(count)]
            for side, count, length in zip(self.size, self.counts, (high, wide), strict=True)
        )
        wholes, crops = self._wholes(), [(top, left, high, wide) for top in tops for left in lefts]
        return wholes if crops == wholes else [*wholes, *crops]

    def views(self, image: Tensor, mode: str) -> Tensor:
        """The views of an image (3, height, width) with antialiasing: (n, 3, *crop_size).

        Args:
            mode: bicubic or bilinear.
        """
        cut = (image[None, :, top : top + high, left : left + wide] for top, left, high, wide in self.boxes())
        return torch.cat([F.interpolate(view, self.crop_size, mode=mode, antialias=True) for view in cut])

    def joined(self, maps: Tensor, whole_weight: float = 1.0) -> Tensor:
        """Maps of all views (n, C, gh, gw) as one of all crops' cells: (C, crops high * gh, crops wide * gw).

        Each crop's map lies at its place, and ``whole_weight`` times that of the whole image, resized bilinearly, is
        added. Two halves have half of the width each.
        """
        high, wide = self.counts
        rows, columns = high * maps.shape[-2], wide * maps.shape[-1]
        wholes = len(self._wholes())
        widths = [columns] if wholes == 1 else [columns // 2, columns - columns // 2]
        whole = torch.cat(
            [
                F.interpolate(one[None], (rows, length), mode="bilinear", align_corners=False)[0]
                for one, length in zip(maps, widths)
                if length
            ],
            dim=-1,
        )
        crops = maps[-high * wide :].unflatten(0, (high, wide)).permute(2, 0, 3, 1, 4)
        return whole_weight * whole + crops.flatten(3).flatten(1, 2)
