"""The masks of all shards under one number each, and what they look like."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.errors import UserError, shown
from maft.index.reading import StoredIndex
from maft.index.search import unit_embeddings
from maft.index.shard import Shard
from maft.index.stored import StoredImage
from maft.inference import ResizedMasks


class MaskRows:
    """The M masks of an index, numbered through all its shards; a mask of an image has a number in it as well."""

    def __init__(self, stored: StoredIndex) -> None:
        self._stored = stored
        self._starts = [0, *accumulate(facts.masks for facts in stored.contents.shards)]

    def __len__(self) -> int:
        return self._starts[-1]

    def shard(self, row: int) -> tuple[Shard, int, int]:
        """The shard of a mask, its number, and the row of the mask there."""
        number = bisect_right(self._starts, row) - 1
        return self._stored.shard(number), number, row - self._starts[number]

    def image(self, row: int) -> tuple[int, int]:
        """The image of a mask, and the number that the mask has in it."""
        shard, number, local = self.shard(row)
        place = int(shard.image_of[local])
        return self._stored.first(number) + place, local - shard.rows(place).start

    def row(self, image: int, mask: int) -> int:
        """The mask with a number in an image.

        Raises:
            UserError: there is no such image or mask.
        """
        number, place = self._stored.place(image)
        rows = self._stored.shard(number).rows(place)
        if not 0 <= mask < rows.stop - rows.start:
            raise UserError(f"Image {image} has no mask {mask}: it has {rows.stop - rows.start}, numbered from 0.")
        return self._starts[number] + rows.start + mask

    def runs(self, row: int) -> dict[str, Any]:
        """Run lengths of a mask at the size at which it was proposed."""
        shard, _, local = self.shard(row)
        return shard.runs(local)

    def by_shard(self, rows: Tensor | None = None) -> Iterator[tuple[Shard, int, Tensor | None]]:
        """Every shard, or those of ascending rows (n,) int64: it, the number of its first mask, and the rows there."""
        if rows is None:
            for number, shard in enumerate(self._stored.shards()):
                yield shard, self._starts[number], None
            return
        numbers = torch.searchsorted(torch.tensor(self._starts), rows, right=True) - 1
        for number in numbers.unique().tolist():
            start = self._starts[number]
            yield self._stored.shard(number), start, rows[numbers == number] - start

    def units(self, rows: Tensor) -> Tensor:
        """(n, D) embeddings of ascending rows, of unit length; raises `UserError` where the index has none."""
        return torch.cat([unit_embeddings(shard)[local] for shard, _, local in self.by_shard(rows)])

    def query(self, mask: object) -> tuple[Tensor, int | None]:
        """The embedding (1, D) of what others are to be like, and its row where it is a mask of the index.

        Args:
            mask: image and number of a mask, or an embedding (D,).

        Raises:
            UserError: it is neither, there is no such mask, it shows nothing, or the index has no embeddings.
        """
        if _is_pair(mask):
            row = self.row(*mask)
            if not self.visible[row]:
                raise UserError(
                    f"Mask {mask[1]} of image {mask[0]} shows nothing that others could be like: give another."
                )
            return self.units(torch.tensor([row])), row
        width = unit_embeddings(self._stored.shard(0)).shape[1]
        if not isinstance(mask, Tensor) or mask.shape != (width,) or not mask.is_floating_point():
            form = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else " ".join(shown(mask).split())
            raise UserError(
                f"What masks are compared with is {form}: give the numbers of an image and a mask, or a tensor of "
                f"{width} real numbers."
            )
        if not mask.isfinite().all() or not mask.any():
            raise UserError("The embedding that masks are compared with is zero or not finite: give another.")
        return mask.detach().float().cpu()[None], None

    def cosines(self, queries: Tensor, rows: Tensor | None = None) -> Tensor:
        """(M,) cosine of each mask with the nearest of some embeddings, minus infinity of masks that show nothing.

        Args:
            queries: (n, D).
            rows: (m,) int64, the masks that are compared, ascending; None: all.
        """
        units, found = F.normalize(queries, dim=-1).T, torch.full((len(self),), -torch.inf)
        for shard, start, local in self.by_shard(rows):
            local = torch.arange(shard.masks) if local is None else local
            found[start + local] = (unit_embeddings(shard)[local] @ units).amax(dim=1)
        return found.masked_fill(~self.visible, -torch.inf)

    @cached_property
    def visible(self) -> Tensor:
        """(M,) bool, masks with a pixel inside that the classifier could see."""
        return torch.cat([shard.valid & (shard.areas > 0) for shard in self._stored.shards()])


def _is_pair(mask: object) -> TypeGuard[tuple[int, int]]:
    return isinstance(mask, tuple) and len(mask) == 2 and all(isinstance(number, int) for number in mask)


@torch.no_grad()
def outlines(image: StoredImage) -> Tensor:
    """(Q, H, W) bool, the masks of an image at its size: logits above 0, or values above one half."""
    limit = 0.0 if image.proposals.are_logits else 0.5
    strips = ResizedMasks.of(image.proposals, image.size, image.output_size).strips()
    return torch.cat([values > limit for _, values in strips], dim=1)
