import itertools
import random

import numpy as np
import pytest
import torch
from engine import tiny_run

from maft.data.loader import BatchSampler, TrainingLoader, TrainingSamples, build_test_loader, build_train_loader
from maft.errors import UserError


def take(iterable, count):
    return list(itertools.islice(iterable, count))


def draw(record):
    """A mapper whose output shows every generator an augmentation may draw from."""
    return {"id": record["id"], "draws": (random.random(), float(np.random.rand()), float(torch.rand(())))}


def loader(workers=0, rank=0, world_size=1, start=0, mapper=draw, count=7):
    records = [{"id": index} for index in range(count)]
    sampler = BatchSampler(count, 4, seed=5, rank=rank, world_size=world_size)
    found = TrainingLoader(TrainingSamples(records, mapper, 5), sampler, workers)
    found.start_at(start)
    return found


def test_every_epoch_visits_each_record_once_in_another_order():
    keys = [key for batch in take(BatchSampler(8, 4, seed=1), 4) for key in batch]
    epochs = [[record for record, *_ in keys[:8]], [record for record, *_ in keys[8:]]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(8))] * 2
    assert epochs[0] != epochs[1]


def test_a_batch_does_not_depend_on_start_workers_or_processes():
    whole = take(loader(), 5)
    assert take(loader(start=2), 3) == whole[2:]
    assert take(loader(workers=2), 5) == whole
    parts = [take(loader(rank=rank, world_size=2), 5) for rank in range(2)]
    assert [first + second for first, second in zip(*parts)] == whole
    assert len({record["draws"] for batch in whole for record in batch}) == 20


def test_groups_never_share_a_batch_and_no_record_is_lost():
    groups = [0, 1, 1, 0, 1, 1, 1, 0]
    batches = take(BatchSampler(8, 4, seed=0, groups=groups), 20)
    assert all(len({groups[record] for record, *_ in batch}) == 1 for batch in batches)
    assert {record for batch in batches for record, *_ in batch} == set(range(8))


@pytest.mark.parametrize("padded_size", [0, 20])
def test_a_batch_holds_images_of_one_shape_unless_that_is_off(tmp_path, padded_size):
    tiny_run.write_images(tmp_path, count=9)
    tiny_run.register(tmp_path)

    def shapes(*overrides):
        options = ["INPUT.PADDED_SIZE", padded_size, "SOLVER.IMS_PER_BATCH", 3, *overrides]
        found = build_train_loader(tiny_run.config(tmp_path, *options), lambda record: record, seed=0)
        batches = [[record["width"] > record["height"] for record in batch] for batch in take(found, 12)]
        return {len(set(batch)) for batch in batches}, {batch[0] for batch in batches}, found.state_dict()

    kinds, lying, state = shapes()
    assert kinds == {1} and lying == {False, True}
    kinds, _, other = shapes("DATALOADER.ASPECT_RATIO_GROUPING", False)
    assert kinds == {1, 2}
    # A run that is resumed with another order says so.
    assert state != other


def skip_even(record):
    return None if record["id"] % 2 == 0 else draw(record)


def test_a_skipped_record_is_replaced_by_the_same_one_everywhere():
    whole = take(loader(mapper=skip_even), 3)
    assert all(record["id"] % 2 == 1 for batch in whole for record in batch)
    assert take(loader(mapper=skip_even, workers=1), 3) == whole


def skip_all(record):
    return None


def refuse(record):
    raise UserError("image 3 is broken")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("mapper", "sentence"), [(skip_all, "no usable label"), (refuse, "^image 3 is broken$")])
def test_mistakes_leave_a_worker_as_one_sentence(workers, mapper, sentence):
    with pytest.raises(UserError, match=sentence):
        next(iter(loader(workers, mapper=mapper)))


def test_an_uneven_split_and_an_empty_dataset_are_refused():
    with pytest.raises(UserError, match="IMS_PER_BATCH is 5"):
        BatchSampler(8, 5, seed=0, world_size=2)
    with pytest.raises(UserError, match="no image"):
        BatchSampler(0, 4, seed=0)


def test_processes_with_other_images_or_classes_are_refused(monkeypatch):
    compared = []
    monkeypatch.setattr("maft.data.loader.same_everywhere", lambda values, advice: compared.append(dict(values)))
    for names in (["a/1.jpg", "a/2.jpg"], ["b/1.jpg", "b/2.jpg"], ["a/1.jpg", "a/3.jpg"]):
        build_test_loader([{"file_name": name} for name in names], draw)
    # Folders may differ between machines, names may not.
    assert compared[0] == compared[1] != compared[2]
    assert compared[0]["the number of images"] == 2
