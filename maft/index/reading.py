"""An index on the disk: opened lazily, and refused with one sentence where it is not whole."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from torch import Tensor

from maft.checkpoint.io import read_state_dict
from maft.errors import UserError
from maft.index.format import (
    CONFIG_FILE,
    INDEX_FILE,
    WEIGHTS_FILE,
    Contents,
    Manifest,
    Settings,
    read_manifest,
    shard_path,
)
from maft.index.shard import AGAIN, Shard
from maft.index.stored import StoredImage


class StoredIndex:
    """A whole index.

    Args:
        folder: of the index.

    Attributes:
        settings: what it was made of.
        contents: what it holds.

    Raises:
        UserError: there is none, or it is not whole, damaged or of another version; a shard's faults are found when it
            is first used.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        manifest = manifest_of(self.folder)
        if manifest is None:
            raise UserError(f"{self.folder} is no index (it has no {INDEX_FILE}): give a folder that maft index wrote.")
        if manifest.contents is None:
            raise UserError(f"The index {self.folder} is not finished: run the same maft index command again.")
        self.settings: Settings = manifest.settings
        self.contents: Contents = manifest.contents
        if len(self.contents.shards) != self.settings.shards:
            raise UserError(f"{self.folder / INDEX_FILE} is damaged: run the same maft index command again.")
        self._starts = [0, *accumulate(facts.images for facts in self.contents.shards)]
        self._shards: dict[int, Shard] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def shard(self, number: int) -> Shard:
        """One of the ``settings.shards`` shards."""
        if number not in self._shards:
            shard = Shard(shard_path(self.folder, number), self.settings.digest)
            facts = self.contents.shards[number]
            if (shard.header.shard, shard.check) != (number, facts.header):
                raise UserError(f"Shard {shard.path} is not the one that the index was made with: {AGAIN}.")
            self._shards[number] = shard
        return self._shards[number]

    def shards(self) -> Iterator[Shard]:
        """All shards, in order."""
        return map(self.shard, range(self.settings.shards))

    def place(self, index: int) -> tuple[int, int]:
        """Shard of an image, and which of the shard's images it is."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of an index of {len(self)}")
        number = bisect_right(self._starts, index) - 1
        return number, index - self._starts[number]

    def first(self, shard: int) -> int:
        """Which image of the index is the first of a shard."""
        return self._starts[shard]

    def image(self, index: int) -> StoredImage:
        """What the model saw of an image, as it saw it."""
        number, place = self.place(index)
        return self.shard(number).image(place)

    @property
    def has_queries(self) -> bool:
        """Whether the proposer's scores of other words can be asked for."""
        return "queries" in self.contents.bytes

    @property
    def config_file(self) -> Path:
        """Config of the model."""
        return self.folder / CONFIG_FILE

    def weights(self) -> dict[str, Tensor]:
        """What asking needs of the model, see `maft.index.words.asked_tensors`."""
        return read_state_dict(self.folder / WEIGHTS_FILE)


def manifest_of(folder: Path) -> Manifest | None:
    """``index.json`` of a folder, None where it has none; raises `UserError` where it cannot be read."""
    path = folder / INDEX_FILE
    if not path.is_file():
        return None
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its rights.") from error
    return read_manifest(text, path)
