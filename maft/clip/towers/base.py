"""What every image tower can be asked, and how a classifier is told what a kind of tower cannot do.

Shape letters: B images, Q masks, C channels of the dense features, D joint embedding, P = gh * gw cells of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from maft.errors import UserError
from maft.layers.mask_pool import mask_pool

Grid = tuple[int, int]
Ability = Literal["proposal masks", "dense features", "mask prompts", "feature pyramid"]
Refusals = Mapping[Ability, str]

NO_PYRAMID = (
    "it has one feature map and a backbone needs four: choose a ConvNeXt such as convnext_large_d_320, a ResNet such "
    "as RN50, ViTamin, Swin or MobileCLIP, or a backbone of Detectron2"
)


def described_size(visual: Any) -> Grid:
    """(height, width) that the description of a tower says its images have."""
    size = visual.image_size
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


class ImageTower:
    """An image tower of open_clip, run piece by piece. It owns no parameters, so it is made of any copy of a tower.

    Attributes:
        kind: how the tower makes one vector of an image.
        refusals: what its kind cannot do, each with the reason and what to do instead.
        visual: the tower.
        name: how messages call the CLIP it belongs to.
        image_size: native input size (height, width); where the description says another one than the position
            embedding is for, that of the latter.
        stride: pixels per cell of the dense features.
        masked_blocks: how many blocks there are of which one may be the first that masks act in; 0 where masks act in
            the pool.
        head_names: how names of parameters begin that the dense features do not depend on.
    """

    kind: ClassVar[str]
    refusals: ClassVar[Refusals] = {}
    stride: int = 32
    masked_blocks: int = 0
    head_names: tuple[str, ...] = ()

    def __init__(self, visual: Any, name: str) -> None:
        self.visual = visual
        self.name = name
        self.image_size = described_size(visual)
        if min(self.image_size) < 1:
            raise UserError(f"vision_cfg.image_size of CLIP {name} is {self.image_size}: it must be positive.")

    def require(self, ability: Ability, purpose: str) -> None:
        """Raises `UserError` where this kind of tower lacks an ability; ``purpose`` begins the sentence."""
        if reason := self.refusals.get(ability):
            raise UserError(f"{purpose} does not work with the image tower of {self.name} ({self.kind}): {reason}.")

    def encode(self, pixels: Tensor, *, align_corners: bool = False) -> Tensor:
        """Image embeddings (B, D), not normalised, of normalised pixels (B, 3, h, w) of any size.

        Args:
            align_corners: how a position embedding is resized to another grid than the native one.
        """
        raise NotImplementedError

    def encode_masked(
        self,
        pixels: Tensor,
        visible: Tensor,
        start_layer: int,
        *,
        align_corners: bool = False,
        checkpointing: bool = False,
    ) -> Tensor:
        """One embedding per mask of one pass over the image (needs the ability "proposal masks").

        Args:
            pixels: (B, 3, h, w) normalised.
            visible: (B, Q, P) bool, the cells of the grid that a mask shows.
            start_layer: first block that masks act in; 0 where ``masked_blocks`` is 0.
            align_corners: as for `encode`.
            checkpointing: recompute the blocks in the backward pass to save memory.

        Returns:
            (B, Q, D), not normalised.
        """
        raise NotImplementedError

    def encode_masked_and_whole(
        self,
        pixels: Tensor,
        visible: Tensor,
        start_layer: int,
        *,
        align_corners: bool = False,
        checkpointing: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """`encode_masked` (B, Q, D) and `encode` (B, D) of the same images, with what both begin with run once."""
        raise NotImplementedError

    def attention_and_norms(self) -> Iterator[nn.Parameter]:
        """Parameters of the attention and of the norms, what MAFT tunes (needs the ability "proposal masks")."""
        raise NotImplementedError

    def dense_features(self, pixels: Tensor) -> dict[str, Tensor]:
        """Feature maps of normalised pixels (B, 3, h, w) (needs the ability "dense features").

        Returns:
            "dense" (B, C, gh, gw), and of a feature pyramid also "stem" and "res2".."res5" (strides 4, 8, 16, 32).
        """
        raise NotImplementedError

    @property
    def dense_channels(self) -> int:
        """C, channels of "dense"."""
        raise NotImplementedError

    def pyramid_channels(self) -> dict[str, int]:
        """Channels of "stem" and "res2".."res5" (needs the ability "feature pyramid")."""
        raise NotImplementedError

    def project_pooled(self, vectors: Tensor) -> Tensor:
        """What the tower does after its pool, on pooled dense features (..., C) -> (..., D), not normalised.

        An attention pool over a single position is its value, output projection and what follows them.
        """
        raise NotImplementedError

    def project_dense(self, features: Tensor, *, rows_in_memory_order: bool = False) -> Tensor:
        """`project_pooled` at every cell of dense features: (B, C, h, w) -> (B, D, h, w), not normalised.

        Args:
            rows_in_memory_order: MAFT+'s reshape, which cuts the channel-first tensor into rows of C consecutive
                elements, mixing positions and channels. Its released weights were trained with it.
        """
        batch, channels, height, width = features.shape
        rows = (
            features.reshape(batch, height, width, channels) if rows_in_memory_order else features.permute(0, 2, 3, 1)
        )
        return self.project_pooled(rows).permute(0, 3, 1, 2).contiguous()

    def pool_masks(self, features: Tensor, inside: Tensor) -> Tensor:
        """FC-CLIP's pooling of dense features (B, C, h, w) under masks (B, Q, h, w) bool: (B, Q, D), not normalised.

        The projected mean under the mask, which is zero before the projection for an empty one; an attention pool
        looks at the positions of the mask instead, and at all of them for an empty one.
        """
        return self.project_pooled(mask_pool(features, inside))
