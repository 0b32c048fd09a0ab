"""An index on the disk: opened lazily, and refused with one sentence where it is not whole."""

from __future__ import annotations

import os
import zlib
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
    positions,
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
        if not _agrees(self.settings, self.contents):
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
            if (shard.header.shard, len(shard), shard.masks, shard.check) != (
                number, facts.images, facts.masks, facts.header,
            ):  # fmt: skip
                raise UserError(f"Shard {shard.path} is not the one that the index was made with: {AGAIN}.")
            self._shards[number] = shard
        return self._shards[number]

    def shards(self) -> Iterator[Shard]:
        """All shards, in order."""
        return map(self.shard, range(self.settings.shards))

    def place(self, index: int) -> tuple[int, int]:
        """Shard of an image, and which of the shard's images it is; raises `UserError` where there is no such image."""
        if not 0 <= index < len(self):
            raise UserError(f"There is no image {index}: the index holds {len(self)}, numbered from 0.")
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
        """Config of the model; raises `UserError` where it is missing, damaged or another one."""
        return self._checked(CONFIG_FILE)

    def weights(self) -> dict[str, Tensor]:
        """What asking needs of the model, see `maft.index.words.asked_tensors`; raises as ``config_file`` does."""
        return read_state_dict(self._checked(WEIGHTS_FILE))

    def _checked(self, name: str) -> Path:
        path = self.folder / name
        again = "run the same maft index command again, which writes it anew"
        try:
            check = file_check(path)
        except OSError as error:
            raise UserError(f"{path}, which the index needs, cannot be read ({error.strerror}): {again}.") from error
        if check != self.contents.files.get(name):
            raise UserError(f"{path} is damaged, or of another index: {again}.")
        return path


def _agrees(settings: Settings, contents: Contents) -> bool:
    """Whether what stands in ``index.json`` can stand together."""
    shards = contents.shards
    return (
        len(shards) == settings.shards
        and contents.bound == ("class_logits" in contents.bytes)
        and all(facts.images <= len(positions(settings, number)) for number, facts in enumerate(shards))
        and contents.images == sum(facts.images for facts in shards)
        and contents.images + len(contents.unreadable) == settings.images
        and contents.masks == sum(facts.masks for facts in shards)
        and sum(contents.bytes.values()) == sum(facts.bytes for facts in shards)
    )


def file_check(path: Path) -> int:
    """CRC-32 of a file."""
    check = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            check = zlib.crc32(block, check)
    return check


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
