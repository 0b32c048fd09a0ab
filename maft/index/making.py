"""Makes an index of images: what ``maft index`` runs in every process."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from detectron2.utils.logger import log_every_n_seconds
from torch.utils.data import DataLoader

import maft
from maft.data.loader import MappedRecords, Mapper
from maft.data.reading import Record
from maft.data.workers import start_worker
from maft.errors import UserError, printable, shown
from maft.index.format import IMAGES_PER_SHARD, Contents, Masks, Settings, Unreadable
from maft.index.looking import Truth, check_look, look, model_fingerprint
from maft.index.writing import IndexWriter, writing_index
from maft.layers.distributed import same_everywhere
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Vocabulary

logger = logging.getLogger(__name__)

_LOG_SECONDS = 5


@dataclass(frozen=True)
class Collection:
    """Images to look at.

    Attributes:
        records: Detectron2 dicts with a "file_name".
        mapper: gives them pixels; raises `UserError` for what cannot be read.
        dataset: the name of theirs; empty for pictures of no dataset.
        truth: gives their annotated masks; None: they are not kept.
    """

    records: Sequence[Record]
    mapper: Mapper
    dataset: str = ""
    truth: Truth | None = None


def looked_for(cfg: CfgNode, model: OpenVocabSegmentor, given: Vocabulary | None) -> Vocabulary:
    """The words with which masks are looked for.

    Args:
        cfg: of the model.
        given: those that the user gave; None: none.

    Raises:
        UserError: masks depend on words and none are given, or they do not and some are.
    """
    name = type(model.proposer).__name__
    if model.proposer.reads_words:
        if given is None:
            raise UserError(
                f"What {name} finds depends on the words that it is given: say what to look for with --words or "
                "--label-set, or with --own-words for those of the training."
            )
        return given
    if given is not None:
        raise UserError(
            f"The masks of {name} do not depend on words, which can be asked of the index afterwards: leave --words, "
            "--label-set and --own-words out."
        )
    # Its scores of them are not kept; a word of its own is one that its CLIP knows.
    return Vocabulary(model.vocabulary.names[:1] if cfg.DATASETS.TRAIN else ("object",))


def index_settings(
    cfg: CfgNode,
    model: OpenVocabSegmentor,
    records: Sequence[Record],
    words: Vocabulary,
    *,
    dataset: str = "",
    true_masks: bool = False,
    masks: Masks = "exact",
    images_per_shard: int = IMAGES_PER_SHARD,
) -> Settings:
    """What an index of these images is made of.

    Args:
        words: with which masks are looked for.
        dataset, true_masks, masks, images_per_shard: see `Settings`.
    """
    files = "\n".join(str(record["file_name"]) for record in records)
    return Settings(
        model=model_fingerprint(cfg, model),
        images=len(records),
        files=hashlib.sha256(files.encode("utf-8", "surrogateescape")).hexdigest(),
        dataset=dataset,
        true_masks=true_masks,
        masks=masks,
        words=words.names if model.proposer.reads_words else (),
        images_per_shard=images_per_shard,
        software={"maft": maft.__version__, "torch": torch.__version__},
    )


def make_index(
    cfg: CfgNode,
    model: OpenVocabSegmentor,
    folder: str | os.PathLike[str],
    collection: Collection,
    *,
    words: Vocabulary | None = None,
    masks: Masks = "exact",
    images_per_shard: int = IMAGES_PER_SHARD,
) -> Contents:
    """Looks at all images and writes the index; has to be called by all processes.

    Args:
        cfg: of the model.
        model: in evaluation mode.
        folder: see `writing_index`.
        words: see `looked_for`.
        masks, images_per_shard: see `Settings`.

    Raises:
        UserError: the model's look cannot be kept, no image can be read, or see `writing_index`.
    """
    check_look(cfg)
    if not collection.records:
        raise UserError("There is no image to index.")
    _check_names(collection.records)
    if model.proposer.needs_targets and not collection.dataset:
        raise UserError(
            f"The proposer {type(model.proposer).__name__} needs annotated images, which pictures of no dataset are "
            "not: give --dataset, or choose another proposer."
        )
    model.proposer.check_records(collection.records)
    vocabulary = looked_for(cfg, model, words)
    settings = index_settings(
        cfg, model, collection.records, vocabulary,
        dataset=collection.dataset, true_masks=collection.truth is not None, masks=masks,
        images_per_shard=images_per_shard,
    )  # fmt: skip
    same_everywhere({"the index": settings.digest}, "start all with the same images, model and options")
    with writing_index(folder, settings) as writer:
        if kept := sum(comm.all_gather(writer.kept)):
            logger.info("%d of %d images are in the index already.", kept, settings.images)
        _look_at_all(cfg, model, writer, collection, vocabulary)
        return writer.finish(cfg, model, vocabulary)


def _check_names(records: Sequence[Record]) -> None:
    for record in records:
        try:
            str(record["file_name"]).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"The name of the file {shown(record['file_name'])} is no UTF-8, in which an index "
                "keeps names: rename it."
            ) from None


def _look_at_all(
    cfg: CfgNode, model: OpenVocabSegmentor, writer: IndexWriter, collection: Collection, vocabulary: Vocabulary
) -> None:
    pending = writer.pending
    started, masks = time.perf_counter(), 0
    for count, (position, record) in enumerate(_mapped(cfg, collection, pending), start=1):
        if isinstance(record, UserError):
            file = str(collection.records[position]["file_name"])
            logger.warning("Left out: %s", printable(str(record)))
            writer.add(position, Unreadable(position, file, str(record)))
        else:
            seen = look(model, record, vocabulary, collection.truth)[2]
            masks += seen.proposals.masks.shape[1]
            writer.add(position, seen)
        seconds = time.perf_counter() - started
        left = timedelta(seconds=round(seconds / count * (len(pending) - count)))
        line = f"Looked at {count} of {len(pending)} images ({1000 * seconds / count:.0f} ms each), {left} left."
        log_every_n_seconds(logging.INFO, line, _LOG_SECONDS)
    if pending:
        seconds = time.perf_counter() - started
        logger.info(
            "Looked at %d images with %d masks in %.1f s (%.0f masks a second in this process).",
            len(pending), masks, seconds, masks / max(seconds, 1e-9),
        )  # fmt: skip


def _mapped(cfg: CfgNode, collection: Collection, pending: list[int]) -> Iterator[tuple[int, Record | UserError]]:
    """The pending records with pixels, one at a time, or why one has none."""
    loader = DataLoader(
        MappedRecords(DatasetFromList(list(collection.records), copy=False), collection.mapper),
        batch_size=1,
        sampler=pending,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=list,
        worker_init_fn=start_worker,
    )
    for position, (record,) in zip(pending, loader, strict=True):
        yield position, record
