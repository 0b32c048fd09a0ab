"""Masks at the size of an output, never all of it at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from maft.layers.score_maps import Tile, output_strips, resized_rows, source_rows
from maft.structures import Proposals

_GROUPS = 32


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

    def selected(self, which: Tensor | slice) -> ResizedMasks:
        """Some of the masks: a slice, or (n,) int64."""
        return replace(self, tile=replace(self.tile, masks=self.tile.masks[which]))

    def row_strips(self) -> Iterator[range]:
        """Rows of the output, so many at a time as all masks of them, and as much again, are meant to be in memory."""
        return output_strips(self.size, [(self.tile.height, self.tile.width)], 2 * len(self.tile.masks))

    def groups(self) -> Iterator[slice]:
        """The masks, in at most 32 groups of one size, the last one smaller: of a strip, each is made in the cache."""
        count = len(self.tile.masks)
        size = max(1, -(-count // _GROUPS))
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))

    def at(self, rows: range) -> Tensor:
        """(Q, len(rows), W) masks at rows of the output, logits or values in [0, 1] as they were proposed."""
        source, places = source_rows(self.tile.height, self.size[0], rows)
        return resized_rows(self.tile.mask_rows(source), places, self.size[1])

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows of the output and the masks there, see `at`."""
        for rows in self.row_strips():
            yield slice(rows.start, rows.stop), self.at(rows)
