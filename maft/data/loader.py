"""Training and test data loaders whose content does not depend on how many processes or workers read it.

A training batch is a pure function of (seed, iteration): which images, in which order, and the random numbers of each
image's augmentation. So resuming needs no more than the iteration, and one process, several processes, gradient
accumulation and any number of workers all see the same global batch.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MetadataCatalog
from detectron2.data.samplers import InferenceSampler
from torch.utils.data import DataLoader, Dataset, Sampler

from maft.data.reading import Record
from maft.data.records import load_records
from maft.data.workers import start_worker, unusable
from maft.errors import UserError
from maft.layers.distributed import same_everywhere
from maft.structures import as_clip_reads

Mapper = Callable[[Record], "Record | None"]
SampleKey = tuple[int, int, int]

_RETRIES = 100


class BatchSampler(Sampler[list[SampleKey]]):
    """Endless batches of this process: keys (index of a record, iteration, place in the global batch).

    Every epoch visits each record once, in an order given by (seed, epoch). The global batch is split among the
    processes in contiguous parts.

    Args:
        count: number of records.
        batch_size: size of the global batch.
        seed: of the order.
        rank, world_size: which part of the global batch this process gets.
        groups: (count,) ints; a global batch holds records of one group only (portrait or landscape). What does not
            fill a batch waits for the next epoch. None: no grouping.

    Raises:
        UserError: there is nothing to sample, or the batch cannot be split evenly.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        groups: Sequence[int] | None = None,
    ) -> None:
        if count == 0:
            raise UserError("The training datasets (DATASETS.TRAIN) hold no image.")
        if batch_size <= 0 or batch_size % world_size:
            raise UserError(
                f"SOLVER.IMS_PER_BATCH is {batch_size}, which {world_size} processes cannot share evenly: "
                "it is the global batch, make it a multiple of their number."
            )
        self.count, self.batch_size, self.seed = count, batch_size, seed
        # Iteration of the first batch.
        self.start = 0
        self.share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self.groups = groups

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for iteration, batch in enumerate(self._global_batches()):
            if iteration >= self.start:
                yield [(index, iteration, place) for place, index in enumerate(batch)][self.share]

    def _global_batches(self) -> Iterator[list[int]]:
        waiting: dict[int, list[int]] = {}
        for index in self._indices():
            batch = waiting.setdefault(self.groups[index] if self.groups is not None else 0, [])
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch.copy()
                batch.clear()

    def _indices(self) -> Iterator[int]:
        epoch = 0
        while True:
            yield from np.random.default_rng((self.seed, epoch)).permutation(self.count).tolist()
            epoch += 1


class MappedRecords(Dataset):
    """Mapped records by index; in place of one that cannot be used stands the error that says why."""

    def __init__(self, records: Sequence[Record], mapper: Mapper) -> None:
        self.records, self.mapper = records, mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Any) -> Record | UserError | None:
        # Raised in a worker process, an error would come out with a traceback in its message.
        try:
            return self.mapped(key)
        except UserError as error:
            return error

    def mapped(self, key: Any) -> Record | None:
        """The mapped record of a key; raises `UserError` where a file cannot be used."""
        return self.map(key)

    def map(self, index: int) -> Record | None:
        """The mapped record of an index; whatever is wrong with it, the error names its file."""
        record = self.records[index]
        try:
            return self.mapper(record)
        except UserError:
            raise
        except Exception as error:
            raise unusable(record, error) from error


class TrainingSamples(MappedRecords):
    """Mapped records by `SampleKey`; the augmentation of a sample draws from (seed, iteration, place) alone."""

    def __init__(self, records: Sequence[Record], mapper: Mapper, seed: int) -> None:
        super().__init__(records, mapper)
        self.seed = seed

    def mapped(self, key: SampleKey) -> Record:
        index, iteration, place = key
        words = np.random.SeedSequence((self.seed, iteration, place)).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        torch.random.default_generator.manual_seed(int(words[2]))
        for _ in range(_RETRIES):
            record = self.map(index)
            if record is not None:
                return record
            # The mapper skips records without labels; another one takes the place, by the sample's own numbers.
            index = random.randrange(len(self.records))
        raise UserError(
            f"{_RETRIES} training images in a row have no usable label: check that the label maps of DATASETS.TRAIN "
            "belong to its classes."
        )


class Batches:
    """Iterable over the batches (lists of mapped records) of this process.

    Raises:
        UserError: while iterating, a file cannot be used.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[Record]]:
        for batch in self.loader:
            for record in batch:
                if isinstance(record, UserError):
                    raise record
            yield batch


class TrainingLoader(Batches):
    """Iterable over the local batches of this process, without end."""

    def __init__(
        self, samples: TrainingSamples, sampler: BatchSampler, workers: int = 0, classes: Sequence[str] = ()
    ) -> None:
        super().__init__(
            DataLoader(
                samples, batch_sampler=sampler, num_workers=workers, collate_fn=list, worker_init_fn=start_worker
            )
        )
        self.sampler, self.classes = sampler, [as_clip_reads(name) for name in classes]

    def start_at(self, iteration: int) -> None:
        """The next iterator begins with the batch of this iteration."""
        self.sampler.start = iteration

    def state_dict(self) -> dict[str, Any]:
        """What the order of batches and the meaning of labels depend on, for the check on resuming."""
        sampler = self.sampler
        order = {"seed": sampler.seed, "images": sampler.count, "batch_size": sampler.batch_size}
        return {**order, "aspect_ratio_grouping": sampler.groups is not None, "classes": self.classes}


def build_train_loader(
    cfg: CfgNode,
    mapper: Mapper,
    *,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    records: list[Record] | None = None,
) -> TrainingLoader:
    """The training loader of one process.

    Args:
        mapper: record -> record with what the model is given, or None to skip it.
        seed: of order and augmentation, the same in all processes.
        records: samples made of those of ``DATASETS.TRAIN``; None: these.

    Raises:
        UserError: see `load_records` and `BatchSampler`; or records lack the size to group by.
    """
    records = load_records(cfg.DATASETS.TRAIN) if records is None else records
    known = set(MetadataCatalog.list()).intersection(cfg.DATASETS.TRAIN)
    classes = {f"the classes of {name}": MetadataCatalog.get(name).get("stuff_classes") for name in sorted(known)}
    _check_same_everywhere(records, classes)
    groups = None
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        try:
            groups = [int(record["width"] > record["height"]) for record in records]
        except KeyError as error:
            raise UserError(
                f"DATALOADER.ASPECT_RATIO_GROUPING needs every record's width and height, and {error} is missing in "
                f"{', '.join(cfg.DATASETS.TRAIN)}: turn it off."
            ) from None
    sampler = BatchSampler(
        len(records), cfg.SOLVER.IMS_PER_BATCH, seed=seed, rank=rank, world_size=world_size, groups=groups
    )
    samples = TrainingSamples(DatasetFromList(records, copy=False), mapper, seed)
    # All have the same ones.
    names = next((found for found in classes.values() if found), ())
    return TrainingLoader(samples, sampler, cfg.DATALOADER.NUM_WORKERS, names)


def build_test_loader(
    records: list[Record], mapper: Mapper, *, workers: int = 0, skip: int = 0, order: Sequence[int] | None = None
) -> Batches:
    """Batches of one record each over the records of one dataset, each image in exactly one process.

    Args:
        order: places of this process' records; None: the processes share them evenly.
        skip: leave out so many of this process' first images (an evaluation that is resumed).

    Raises:
        UserError: the processes have other records.
    """
    _check_same_everywhere(records)
    return Batches(
        DataLoader(
            MappedRecords(DatasetFromList(records, copy=False), mapper),
            batch_size=1,
            sampler=list(InferenceSampler(len(records)) if order is None else order)[skip:],
            num_workers=workers,
            collate_fn=list,
            worker_init_fn=start_worker,
        )
    )


def _check_same_everywhere(records: Sequence[Record], others: Mapping[str, Any] | None = None) -> None:
    # Folders may lie elsewhere on another machine.
    names = "\n".join(os.path.basename(str(record.get("file_name"))) for record in records)
    fingerprint = hashlib.sha256(names.encode()).hexdigest()[:12]
    same_everywhere(
        {"the number of images": len(records), "the fingerprint of their names": fingerprint, **(others or {})},
        "give every machine the same data",
    )
