"""Masks at the size of an output, never all of it at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from maft.layers.score_maps import Tile, output_strips, resized_rows, source_rows
from maft.structures import Proposals


@dataclass(frozen=True)
class ResizedMasks:
    """Masks at the size of the output, a few rows at a time.

    Attributes:
        tile: the masks of one image as proposed.
        size: (H, W) of the output.
    """

    tile: Tile
    size: tuple[int, int]

    @classmethod
    def of(cls, proposals: Proposals, image_size: tuple[int, int], size: tuple[int, int]) -> ResizedMasks:
        """The masks of a batch of one, for those who read no class scores.

        Args:
            image_size: (height, width) at which the model saw the image, without padding.
            size: (H, W) of the output.
        """
        masks, (height, width) = proposals.masks[0].float(), proposals.own_size or image_size
        spanned = proposals.own_size or proposals.padded_size
        scores = masks.new_zeros(len(masks), 1)
        return cls(
            Tile(scores, masks, spanned, 0, 0, height, width, proposals.are_logits, proposals.align_corners), size
        )

    def selected(self, which: Tensor) -> ResizedMasks:
        """Some of the masks: (Q,) bool or (n,) int64."""
        return replace(self, tile=replace(self.tile, masks=self.tile.masks[which]))

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows of the output and the masks there, (Q, rows, W), logits or values in [0, 1] as they were proposed."""
        tile, (height, width) = self.tile, self.size
        for rows in output_strips(self.size, [(tile.height, tile.width)], len(tile.masks)):
            source, places = source_rows(tile.height, height, rows)
            yield slice(rows.start, rows.stop), resized_rows(tile.mask_rows(source), places, width)
