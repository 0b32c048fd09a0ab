"""Where an evaluation's outputs come from: a model that looks at images, or an index of what it saw of them."""

from __future__ import annotations

import functools
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import InferenceSampler
from detectron2.evaluation import inference_context
from detectron2.utils import comm

from maft.checkpoint.fingerprint import fingerprint
from maft.data.loader import build_test_loader
from maft.data.mappers import SegmentationMapper
from maft.data.reading import Record
from maft.errors import UserError
from maft.evaluation.index_truth import SemanticTruth
from maft.evaluation.mask_accuracy import named_truth
from maft.evaluation.semantic import SemanticEvaluator
from maft.files import sha256
from maft.index.format import Settings
from maft.index.index import Index
from maft.index.looking import IndexingInference
from maft.index.making import index_settings
from maft.index.reading import manifest_of
from maft.index.stored import StoredImage
from maft.index.writing import IndexWriter, writing_index
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Vocabulary
from maft.test_time import inference_of

_SHOWN = 5


class Source(ABC):
    """Outputs of a dataset's images.

    Attributes:
        facts: what a report says of it.
        model: names masks.
        looks: whether it sees the images of records.
        whole: whether the progress so far may be saved as one that can be continued.
    """

    looks = True

    facts: dict[str, Any]
    model: OpenVocabSegmentor

    @property
    def whole(self) -> bool:
        return True

    @abstractmethod
    def identity(self) -> str:
        """A hash of everything that the outputs depend on besides the config and the images."""

    def weights(self) -> str | None:
        """Hash of the model's weights, see `maft.checkpoint.fingerprint.fingerprint`; None where it is not known."""
        return None

    @abstractmethod
    def batches(self, done: int) -> Sequence[list[Record]] | Any:
        """This process' records, one a batch, without the first ``done``: a sized iterable."""

    @abstractmethod
    def outputs(self, batch: list[Record]) -> list[dict[str, Any]]:
        """What the model says, see `OpenVocabSegmentor.forward`, and perhaps ``TRUE_MASKS`` of `mask_accuracy`."""

    @abstractmethod
    def ready(self, words: Vocabulary, things: tuple[bool, ...]) -> Any:
        """A context in which outputs are of these words; what has to be completed is, when it ends without an error."""


class ModelSource(Source):
    """A model that looks at the images of a dataset.

    Args:
        records: of the dataset.
        name: of the dataset.
        index: folder of an index to write on the way (``TEST.SAVE_INDEX``); None: none.
        truth: of the dataset's label maps, for the index; None: no annotated masks are kept.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: OpenVocabSegmentor,
        records: list[Record],
        name: str,
        *,
        index: Path | None = None,
        truth: SemanticEvaluator | None = None,
    ) -> None:
        self.cfg, self.model, self.records, self.name, self.index = cfg, model, records, name, index
        self.truth = SemanticTruth(truth) if truth is not None and model.classifier is not None else None
        self.facts = {"weights": cfg.MODEL.WEIGHTS, "start_from": [dict(entry) for entry in cfg.MODEL.START_FROM]}
        self.weights = functools.cache(lambda: fingerprint(model, {}))  # type: ignore[method-assign]
        self._infer: Any = inference_of(cfg, model)
        self._writer: IndexWriter | None = None
        self._seen: StoredImage | None = None
        self._place = {record["file_name"]: place for place, record in enumerate(records)}

    @property
    def whole(self) -> bool:
        # What is continued after an interruption lacks the images of an unfinished part.
        return self._writer is None or self._writer.between_shards

    def identity(self) -> str:
        return f"{self.weights()} {self.index is not None}"

    def batches(self, done: int) -> Any:
        targets = self.cfg.INPUT.MAPPER if self.model.proposer.needs_targets else None
        mapper = SegmentationMapper.from_config(self.cfg, False, targets=targets, datasets=[self.name])
        order = None
        if self._writer is not None:
            order, left = self._writer.own, set(self._writer.pending)
            if left & set(order[:done]):
                raise UserError(
                    f"{self.index}, the index of the half-finished evaluation, lacks images that it had seen: set "
                    "TEST.RESUME False."
                )
            self._left = left
        return build_test_loader(self.records, mapper, workers=self.cfg.DATALOADER.NUM_WORKERS, skip=done, order=order)

    def outputs(self, batch: list[Record]) -> list[dict[str, Any]]:
        outputs = self._infer(batch)
        if self._seen is not None:
            outputs[0].update(named_truth(self.model, self._seen, self.model.vocabulary))
        return outputs

    @contextmanager
    def ready(self, words: Vocabulary, things: tuple[bool, ...]) -> Iterator[None]:
        with self.model.using_vocabulary(words, things), inference_context(self.model), torch.no_grad():
            if self.index is None:
                yield
                return
            settings = index_settings(
                self.cfg, self.model, self.records, words, dataset=self.name, true_masks=self.truth is not None
            )
            _remove_of_others(self.index, settings)
            with writing_index(self.index, settings) as writer:
                self._writer, self._infer = writer, IndexingInference(self.model, self._keep, self.truth)
                yield
                writer.finish(self.cfg, self.model, words)

    def _keep(self, seen: StoredImage) -> None:
        assert self._writer is not None
        self._seen, place = seen, self._place[seen.file]
        if place in self._left:
            self._writer.add(place, seen)


class IndexSource(Source):
    """An index that holds the images of a dataset: the outputs are the model's, and no image is looked at.

    Args:
        cfg: config of the index's model with the options of the evaluation.
        index: what the model saw.
        records: of the dataset.

    Raises:
        UserError: the index lacks images of the dataset, or holds other files under their names.
    """

    looks = False

    def __init__(self, cfg: CfgNode, index: Index, records: list[Record]) -> None:
        self.index, self.records, self.model = index, records, index.model
        self.options = {key.lower(): value for key, value in cfg.MODEL.INFERENCE.items()}
        self.facts = {"index": str(index.stored.folder)}
        self._places = places_of(index, [record["file_name"] for record in records])
        self._named: tuple[Vocabulary, tuple[bool, ...]] | None = None

    def identity(self) -> str:
        return self.index.stored.settings.digest

    def batches(self, done: int) -> list[list[Record]]:
        return [[self.records[place]] for place in list(InferenceSampler(len(self.records)))[done:]]

    def outputs(self, batch: list[Record]) -> list[dict[str, Any]]:
        assert self._named is not None
        words, things = self._named
        outputs = []
        for record in batch:
            place = self._places[record["file_name"]]
            output = self.index.result(place, words, things, self.options)
            outputs.append({**output, **named_truth(self.model, self.index.stored.image(place), words)})
        return outputs

    @contextmanager
    def ready(self, words: Vocabulary, things: tuple[bool, ...]) -> Iterator[None]:
        # An index takes words without flags for those of a training; a model takes them for unseen.
        self._named = replace(words, seen=words.seen or (False,) * len(words)), things
        with torch.no_grad():
            yield


def _remove_of_others(folder: Path, settings: Settings) -> None:
    """Removes an earlier evaluation's index of another model, as its other results are replaced."""
    manifest = manifest_of(folder) if comm.is_main_process() else None
    if manifest is not None and manifest.settings != settings:
        shutil.rmtree(folder)


def places_of(index: Index, files: Sequence[str]) -> dict[str, int]:
    """Which image of an index each file is: the one of its path, or else of its content.

    Raises:
        UserError: some are not in the index, or lie there with another content.
    """
    entries = [index.entry(place) for place in range(len(index))]
    by_path = {entry.file: place for place, entry in enumerate(entries)}
    by_digest = {entry.digest: place for place, entry in enumerate(entries)}
    found: dict[str, int] = {}
    missing: list[str] = []
    changed: list[str] = []
    for file in files:
        digest = sha256(file)
        if digest in by_digest:
            place = by_path.get(file)
            found[file] = place if place is not None and entries[place].digest == digest else by_digest[digest]
        else:
            (changed if file in by_path else missing).append(file)
    for some, what in ((missing, "are not in"), (changed, "have changed since they were put into")):
        if some:
            raise UserError(
                f"{len(some)} of {len(files)} images {what} the index {index.stored.folder}: {', '.join(some[:_SHOWN])}"
                f"{', ...' if len(some) > _SHOWN else ''}. Index the whole dataset with maft index --dataset."
            )
    return found
