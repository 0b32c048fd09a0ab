"""The files of an index: their names, their version, and what stands in them, as docs/index_format.md describes it.

An index is a folder::

    index.json                  what it was made of, and once it is whole, what it holds
    model/config.yaml           of the model
    model/text.safetensors      what asking needs of its weights
    shards/00000.safetensors    what the model saw of the first images, and so on

Nothing in it depends on the time, the machine, the processes that made it or whether they were interrupted.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from maft.errors import UserError, first_line

VERSION = 1
INDEX_FILE, CONFIG_FILE, WEIGHTS_FILE = "index.json", "model/config.yaml", "model/text.safetensors"
SHARDS = "shards"
# One entry alone: safetensors does not write several in any certain order.
METADATA = "maft.index"
IMAGES_PER_SHARD = 64

Masks = Literal["exact", "binary"]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Size = tuple[Count, Count]


@dataclass(frozen=True)
class Settings:
    """What an index is made of: two indexes with the same settings hold the same bytes.

    Attributes:
        model: fingerprint of the model's weights and config.
        images: how many it was asked to hold.
        files: SHA-256 of their paths, one a line, as they were given.
        dataset: name of the dataset they are of; empty for others.
        true_masks: whether annotated masks are kept as well.
        masks: "exact" keeps what the proposer gave, "binary" its inside alone.
        words: with which masks were looked for, where masks depend on words; empty otherwise.
        images_per_shard: positions that a shard stands for; the last one may have fewer.
        software: versions of what computed it.
    """

    model: str
    images: Positive
    files: str
    dataset: str = ""
    true_masks: bool = False
    masks: Masks = "exact"
    words: tuple[str, ...] = ()
    images_per_shard: Positive = IMAGES_PER_SHARD
    software: dict[str, str] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all of them, which every shard names."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def shards(self) -> int:
        """How many shards an index has."""
        return -(-self.images // self.images_per_shard)


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, and why."""

    position: Count
    file: str
    reason: str


@dataclass(frozen=True)
class ShardFacts:
    """What a whole index knows of one of its shards: images and masks in it, its bytes, and CRC-32 of its header."""

    images: Count
    masks: Count
    bytes: Count
    header: Count


@dataclass(frozen=True)
class Contents:
    """What a whole index holds.

    Attributes:
        images, masks: how many.
        bound: only ``Settings.words`` can be asked, whose scores were made in one step with the masks.
        shards: in order.
        bytes: by part of a shard, as written; see docs/index_format.md.
        unreadable: images that are left out.
        files: CRC-32 of what is of the model, by its place in the folder.
    """

    images: Positive
    masks: Count
    bound: bool
    shards: tuple[ShardFacts, ...]
    bytes: dict[str, Count]
    unreadable: tuple[Unreadable, ...] = ()
    files: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """``index.json``; ``contents`` is None until all shards are there."""

    settings: Settings
    contents: Contents | None = None
    version: int = VERSION


@dataclass(frozen=True)
class ImageEntry:
    """One image in the header of a shard.

    Attributes:
        position: among the images that the index was asked to hold.
        file, digest, output_size, size: of `StoredImage`.
        masks, true_masks: how many.
        mask_size: (h, w) of the masks as proposed.
        padded_size, own_size, are_logits, align_corners: of `Proposals`.
        valid: names of the flags of masks that are known, among "proposed", "embedded" and "true".
        values: compressed bytes of the masks' values; 0: the runs are all there is to them.
        context: shape of what texts are compared with, by name; CRC-32 of its bytes in ``checks``.
        true_context: the same of annotated masks, where it differs.
        checks: CRC-32 of this image's share of a part.
    """

    position: Count
    file: str
    digest: str
    output_size: Size
    size: Size
    masks: Count
    mask_size: Size
    padded_size: Size
    own_size: Size | None
    are_logits: bool
    align_corners: bool
    valid: tuple[str, ...] = ()
    values: Count = 0
    context: dict[str, tuple[Count, ...]] = field(default_factory=dict)
    true_masks: Count | None = None
    true_context: dict[str, tuple[Count, ...]] = field(default_factory=dict)
    checks: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Header:
    """The metadata of a shard.

    Attributes:
        settings: digest of the index's `Settings`.
        shard: its number.
        images: those that were read, by position.
        unreadable: those that were not.
        checks: CRC-32 of each part that is read as a whole.
        bytes: of each part.
    """

    settings: str
    shard: int
    images: tuple[ImageEntry, ...]
    unreadable: tuple[Unreadable, ...] = ()
    checks: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    version: int = VERSION

    @property
    def masks(self) -> int:
        return sum(image.masks for image in self.images)


_MANIFEST, _HEADER = TypeAdapter(Manifest), TypeAdapter(Header)


def written(value: Manifest | Header) -> str:
    """A manifest or header as JSON, always with the same bytes."""
    return json.dumps(asdict(value), ensure_ascii=False, indent=1 if isinstance(value, Manifest) else None)


def read_manifest(text: str | bytes, place: Path) -> Manifest:
    """``index.json``.

    Raises:
        UserError: it is none, or of another version.
    """
    return _read(_MANIFEST, text, f"{place} is no list of an index", "index the images again in another folder")


def read_header(text: str | bytes, place: Path) -> Header:
    """The metadata of a shard.

    Raises:
        UserError: it is none, or of another version.
    """
    return _read(_HEADER, text, f"{place} is no shard of an index", "delete it and run maft index again")


def _read(adapter: TypeAdapter[Any], text: str | bytes, fault: str, advice: str) -> Any:
    try:
        plain = json.loads(text)
        version = plain.get("version") if isinstance(plain, dict) else None
        if type(version) is not int:
            raise ValueError("it names no version")
        if version != VERSION:
            raise UserError(
                f"{fault} of version {VERSION}, which is read here, but of {version}: index the images again, or use "
                "the release of maft that made it."
            )
        return adapter.validate_python(plain, strict=False)
    except (ValidationError, ValueError, RecursionError) as error:
        raise UserError(f"{fault} ({_reason(error)}): {advice}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return first_line(error)


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / SHARDS / f"{number:05d}.safetensors"


def positions(settings: Settings, shard: int) -> range:
    """Which of the images a shard stands for."""
    start = shard * settings.images_per_shard
    return range(start, min(start + settings.images_per_shard, settings.images))
