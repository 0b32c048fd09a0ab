"""Towers that see an image of their native size as a whole and cannot be taken apart."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from maft.clip.towers.base import Ability, ImageTower, Refusals
from maft.errors import UserError

_REASON = (
    "its attention knows the relative positions of its native size alone: use the classifier MaskedCrops, or choose a "
    "ViT such as ViT-B-16"
)
_ABILITIES: tuple[Ability, ...] = ("proposal masks", "dense features", "mask prompts", "feature pyramid")


class RelativePositionTower(ImageTower):
    """timm's ViT with a bias for every relative position of its native grid."""

    kind = "class token, relative positions"
    refusals: ClassVar[Refusals] = dict.fromkeys(_ABILITIES, _REASON)

    def encode(self, pixels: Tensor, *, align_corners: bool = False) -> Tensor:
        """Raises `UserError` for pixels of another size than the native one."""
        height, width = pixels.shape[-2:]
        if (height, width) != self.image_size:
            raise UserError(
                f"The image tower of {self.name} ({self.kind}) sees images of {self.image_size[0]}x"
                f"{self.image_size[1]} pixels only, and was given {height}x{width}: leave INPUT_SIZE out."
            )
        return self.visual(pixels)
