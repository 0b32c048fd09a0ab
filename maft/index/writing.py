"""Writes an index: each process its own shards, each shard whole or not at all, and the list of them at the end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm
from safetensors.torch import save_file

from maft.checkpoint.io import write_safetensors
from maft.config import self_contained
from maft.config_keys import default_config
from maft.errors import UserError, printable
from maft.files import atomic_path, held, sha256, write_text_atomic
from maft.index.format import (
    CONFIG_FILE,
    INDEX_FILE,
    METADATA,
    SHARDS,
    WEIGHTS_FILE,
    Contents,
    ImageEntry,
    Manifest,
    Settings,
    ShardFacts,
    Unreadable,
    positions,
    shard_path,
    written,
)
from maft.index.packing import Packed, joined, packed
from maft.index.reading import file_check, manifest_of
from maft.index.shard import Shard
from maft.index.stored import StoredImage
from maft.index.words import asked_tensors
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Vocabulary

logger = logging.getLogger(__name__)

_LOCK = ".lock"
# Of a config, what says nothing of the model.
_OF_THE_RUN = (
    ("MODEL", "DEVICE"),
    ("DATALOADER", "NUM_WORKERS"),
    ("TEST", "RESUME", "SAVE_INDEX", "SAVE_PREDICTIONS", "VISUALIZE"),
)
# In whose words a difference is told: what is of something else.
_DIFFERENCES = {
    "model": "another model (its weights, its config, or the size at which it sees images)",
    "dataset": "another dataset",
    "images": "other images",
    "files": "other images",
    "true_masks": "the same images with or without annotated masks",
    "masks": "other masks (--masks)",
    "words": "other words",
    "images_per_shard": "shards of another size",
    "software": "another release of the software",
}


class IndexWriter:
    """The shards that one process makes; `writing_index` opens one.

    Args:
        folder: of the index.
        settings: what it is made of.
        rank, world: shard k is made by process k modulo ``world``.

    Attributes:
        own: positions of all images that this process stands for, ascending.
        kept: how many of them whole shards of an earlier run already stand for.
    """

    def __init__(self, folder: Path, settings: Settings, rank: int = 0, world: int = 1) -> None:
        self.folder, self.settings = folder, settings
        self.own = [place for number in range(rank, settings.shards, world) for place in positions(settings, number)]
        self._open = {
            number: dict[int, Packed | Unreadable]()
            for number in range(rank, settings.shards, world)
            if not self._is_whole(number)
        }
        self.kept = len(self.own) - len(self.pending)

    @property
    def pending(self) -> list[int]:
        """Positions of the images that this process has still to add, ascending."""
        return [
            position
            for number, given in self._open.items()
            for position in positions(self.settings, number)
            if position not in given
        ]

    @property
    def between_shards(self) -> bool:
        """Whether all that was added is on the disk."""
        return not any(self._open.values())

    def add(self, position: int, image: StoredImage | Unreadable) -> None:
        """Takes one of the pending images, in any order; the last one of a shard has it written.

        Raises:
            UserError: the shard cannot be written.
        """
        number = position // self.settings.images_per_shard
        given = self._open[number]
        given[position] = image if isinstance(image, Unreadable) else packed(position, image, self.settings.masks)
        if len(given) == len(positions(self.settings, number)):
            self._write(number, [given[place] for place in positions(self.settings, number)])
            del self._open[number]

    def finish(self, cfg: CfgNode, model: OpenVocabSegmentor, vocabulary: Vocabulary) -> Contents:
        """Completes the index; all processes have to call this once nothing is pending.

        Args:
            cfg: of the model.
            vocabulary: any words, see `asked_tensors`.

        Returns:
            what it holds, in every process.

        Raises:
            UserError: no image could be read, or a file cannot be written.
        """
        assert not self.pending, "images are still to be added"
        comm.synchronize()
        contents = None
        if comm.is_main_process():
            contents, first = self._contents()
            if first is None:
                raise self._nothing(contents)
            write_text_atomic(self.folder / CONFIG_FILE, _config_of_model(cfg).dump())
            write_safetensors(self.folder / WEIGHTS_FILE, asked_tensors(model, first, vocabulary))
            files = {name: file_check(self.folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}
            contents = replace(contents, files=files)
            write_text_atomic(self.folder / INDEX_FILE, written(Manifest(self.settings, contents)) + "\n")
        return next(found for found in comm.all_gather(contents) if found is not None)

    def _write(self, number: int, given: list[Packed | Unreadable]) -> None:
        tensors, header = joined(
            self.settings.digest,
            number,
            [one for one in given if isinstance(one, Packed)],
            [one for one in given if isinstance(one, Unreadable)],
        )
        with atomic_path(shard_path(self.folder, number)) as temporary:
            save_file(tensors, str(temporary), metadata={METADATA: written(header)})

    def _is_whole(self, number: int) -> bool:
        path = shard_path(self.folder, number)
        try:
            shard = Shard(path, self.settings.digest) if path.is_file() else None
        except UserError:
            # Of other settings, or damaged: it is made again.
            return False
        if shard is None or shard.header.shard != number:
            return False
        if changed := next((entry.file for entry in shard.header.images if _has_changed(entry)), None):
            logger.warning("%s has changed since it was indexed: it is looked at again.", printable(changed))
        return changed is None

    def _contents(self) -> tuple[Contents, StoredImage | None]:
        """What all shards hold, and the first image of all."""
        unreadable, sizes = list[Unreadable](), dict[str, int]()
        facts = list[ShardFacts]()
        first, bound = None, False
        for number in range(self.settings.shards):
            shard = Shard(shard_path(self.folder, number), self.settings.digest)
            facts.append(ShardFacts(len(shard), shard.masks, shard.path.stat().st_size, shard.check))
            unreadable += shard.header.unreadable
            others = facts[-1].bytes - sum(shard.header.bytes.values())
            for part, count in {**shard.header.bytes, "headers": others}.items():
                sizes[part] = sizes.get(part, 0) + count
            if first is None and len(shard):
                first = shard.image(0)
                bound = first.proposals.class_logits is not None
        contents = Contents(
            images=sum(one.images for one in facts),
            masks=sum(one.masks for one in facts),
            bound=bound,
            shards=tuple(facts),
            bytes=dict(sorted(sizes.items())),
            unreadable=tuple(unreadable),
        )
        return contents, first

    def _nothing(self, contents: Contents) -> UserError:
        # Otherwise they would count as made when the images can be read.
        for number in range(self.settings.shards):
            shard_path(self.folder, number).unlink(missing_ok=True)
        reason = contents.unreadable[0]
        return UserError(
            f"None of the {self.settings.images} images can be read, such as {reason.file} ({reason.reason}): nothing "
            "was indexed."
        )


@contextmanager
def writing_index(folder: str | os.PathLike[str], settings: Settings) -> Iterator[IndexWriter]:
    """An index to write to, or to go on with; all processes of a run have to enter the block.

    The same folder and settings after a run was killed, however that happened, give the bytes of a run that was not.
    Shards with an image whose file has changed are made again; of a file that is gone, what was seen of it is kept.

    Args:
        folder: a new or empty one, or an index of the same settings, whole or not.

    Raises:
        UserError: it is in use, holds an index of something else (the sentence names what) or other files, or cannot
            be written to.
    """
    place = Path(folder)
    if not comm.is_main_process():
        comm.synchronize()
        yield IndexWriter(place, settings, comm.get_rank(), comm.get_world_size())
        return
    _check(place, settings)
    with held(place, SHARDS, str(Path(CONFIG_FILE).parent)):
        if manifest_of(place) is None:
            write_text_atomic(place / INDEX_FILE, written(Manifest(settings)) + "\n")
        comm.synchronize()
        yield IndexWriter(place, settings, 0, comm.get_world_size())
        # An index is the same whoever wrote it.
        (place / _LOCK).unlink(missing_ok=True)


def _has_changed(entry: ImageEntry) -> bool:
    try:
        return sha256(entry.file) != entry.digest
    except OSError:
        # What the model saw of an image outlives it.
        return False


def _config_of_model(cfg: CfgNode) -> CfgNode:
    """The config without weights, where the model ran, and what was written beside the index."""
    own, default = self_contained(cfg), default_config()
    for group, *keys in _OF_THE_RUN:
        for key in keys:
            own[group][key] = default[group][key]
    own.OUTPUT_DIR, own.MODEL.VOCABULARY.CACHE_DIR = default.OUTPUT_DIR, default.MODEL.VOCABULARY.CACHE_DIR
    return own


def _check(folder: Path, settings: Settings) -> None:
    if not os.path.isdir(folder):
        return
    manifest = manifest_of(folder)
    if manifest is None:
        strangers = sorted(name for name in os.listdir(folder) if not name.startswith(".") and name not in _own())
        if strangers:
            raise UserError(f"{folder} holds {strangers[0]}, which is no part of an index: choose another folder.")
        return
    for name, words in _DIFFERENCES.items():
        before, now = getattr(manifest.settings, name), getattr(settings, name)
        if before != now:
            raise UserError(
                f"{folder} is an index of {words}{_values(before, now)}: choose another folder, or delete it."
            )


def _values(before: object, now: object) -> str:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        changed = [f"{name} {before.get(name)}, not {now[name]}" for name in now if before.get(name) != now[name]]
        return f" ({', '.join(changed)})"
    plain = isinstance(before, (bool, int)) or (isinstance(before, str) and len(before) < 64)
    return f" ({before or 'none'}, not {now or 'none'})" if plain else ""


def _own() -> set[str]:
    return {SHARDS, str(Path(CONFIG_FILE).parent)}
