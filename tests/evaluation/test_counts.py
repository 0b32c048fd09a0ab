"""The counts of each image: their sum is the table, through processes, interruptions and files."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from maft.errors import UserError
from maft.evaluation import PanopticEvaluator, SemanticEvaluator
from maft.evaluation.counts import Counts, Evaluated, image_names, read_counts, write_counts
from maft.evaluation.runs import find_results, read_results

NAMES = ("a", "b", "c", "d")
FILES = tuple(f"/data/{index}.jpg" for index in range(150))


def of(**changes):
    facts = {
        "dataset": "somewhere_val",
        "protocol": "generalized",
        "class_names": NAMES,
        "ignore_label": 255,
        "seen": (True, True, False, False),
        "things": (True, False, True, False),
        "files": FILES,
        "names": tuple(image_names(FILES)),
        "ids": tuple(range(len(FILES))),
    }
    return Evaluated(**{**facts, **changes})


def measured(protocol="generalized"):
    draws = np.random.default_rng(0)
    evaluator = SemanticEvaluator(NAMES, 255, seen=of().seen, things=of().things, protocol=protocol, images=FILES)
    parts = {}
    for file in draws.permutation(FILES):
        labels = torch.from_numpy(draws.choice([0, 1, 2, 3, 255], (5, 7)))
        before = evaluator.confusion.counts.clone()
        evaluator.add(torch.from_numpy(draws.integers(-1, len(evaluator.offered), (5, 7))), labels, image=file)
        parts[file] = evaluator.confusion.counts - before
    return evaluator, parts


def counts_of(evaluator, **changes):
    digests = torch.zeros(len(FILES), 32, dtype=torch.uint8)
    return Counts(of(**changes), {evaluator.task: evaluator.rows.gathered()}, digests, digests)


def comparable(results):
    return {
        (task, name): None if math.isnan(value) else value
        for task, values in results.items()
        for name, value in values.items()
    }


@pytest.mark.parametrize("protocol", ["generalized", "unseen_only"])
def test_the_rows_of_the_images_are_their_confusion_matrices(protocol, tmp_path):
    evaluator, parts = measured(protocol)
    write_counts(tmp_path, counts_of(evaluator, protocol=protocol))
    counts = read_counts(tmp_path)
    assert torch.equal(counts.confusion(), evaluator.confusion.counts)
    table = counts.tables["sem_seg"]
    assert table["image"].tolist() == sorted(table["image"].tolist()) and (table["count"] > 0).all()
    for place, file in enumerate(FILES):
        own = table["image"] == place
        found = torch.zeros_like(parts[file])
        found[table["predicted"][own].long(), table["true"][own].long()] = table["count"][own].long()
        assert torch.equal(found, parts[file])
    assert comparable(counts.results()) == comparable(evaluator.evaluate())


def test_the_rows_of_a_panoptic_evaluation_add_up_to_its_table(tmp_path):
    draws = np.random.default_rng(0)
    evaluator = PanopticEvaluator(NAMES, of().things, images=FILES)
    for file in FILES:
        truth = draws.integers(0, 4, (6, 6)).repeat(3, 0)
        found = np.where(draws.random(truth.shape) < 0.4, draws.integers(0, 4, truth.shape), truth)
        segments = [{"id": one, "category_id": (one + int(draws.integers(2))) % 4} for one in range(1, 4)]
        evaluator.add(torch.from_numpy(truth), segments, torch.from_numpy(found), segments, file)
    write_counts(tmp_path, counts_of(evaluator))
    counts = read_counts(tmp_path)
    torch.testing.assert_close(counts.qualities(), evaluator.table, rtol=1e-12, atol=0)
    assert evaluator.table[:, 1:].all()
    assert counts.results()["panoptic_seg"] == pytest.approx(evaluator.evaluate()["panoptic_seg"], rel=1e-12)


def test_without_names_of_images_nothing_is_kept():
    evaluator = SemanticEvaluator(NAMES, 255)
    evaluator.add(torch.zeros(2, 2), torch.zeros(2, 2))
    assert evaluator.rows.state()["image"].tolist() == []


def test_an_evaluator_continues_with_the_rows_of_an_earlier_run():
    first, second = SemanticEvaluator(NAMES, 255, images=FILES), SemanticEvaluator(NAMES, 255, images=FILES)
    for evaluator, files in ((first, FILES[:70]), (second, FILES[70:])):
        if evaluator is second:
            second.load_state(first.state())
        for file in files:
            evaluator.add(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]), image=file)
    rows = second.rows.gathered()
    assert rows["image"].tolist() == [place for place in range(len(FILES)) for _ in range(2)]
    assert rows["count"].sum() == second.confusion.counts.sum() == 2 * len(FILES)


def damaged(path, change):
    tensors, metadata = load_file(path), {}
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["maft.counts"])
    change(tensors, metadata)
    save_file(tensors, path, metadata={"maft.counts": json.dumps(metadata)})


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, metadata: tensors.pop("sem_seg/true"),
        lambda tensors, metadata: tensors["sem_seg/predicted"].fill_(9),
        lambda tensors, metadata: tensors["sem_seg/image"].fill_(-1),
        lambda tensors, metadata: tensors.update({"sem_seg/count": tensors["sem_seg/count"][1:].clone()}),
        lambda tensors, metadata: tensors.update({"pictures": tensors["pictures"][1:].clone()}),
        lambda tensors, metadata: tensors.update({"pictures": tensors["pictures"][:, :16].clone()}),
        lambda tensors, metadata: tensors.update({"sem_seg/predicted": tensors["sem_seg/predicted"] + 0.7}),
        lambda tensors, metadata: metadata.update(names=["same"] * len(FILES)),
        lambda tensors, metadata: metadata.update(names="["),
        lambda tensors, metadata: metadata.update(names=3),
        lambda tensors, metadata: metadata.update(things=[True]),
        lambda tensors, metadata: metadata.pop("seen"),
        lambda tensors, metadata: metadata.update(files=["["] * 100000),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, change):
    write_counts(tmp_path, counts_of(measured()[0]))
    damaged(tmp_path / "counts.safetensors", change)
    with pytest.raises(UserError, match="counts.safetensors is damaged .*: evaluate again") as error:
        read_counts(tmp_path)
    assert "\n" not in str(error.value)


def test_the_same_counts_are_the_same_bytes(tmp_path):
    counts = counts_of(measured()[0])
    files = [tmp_path / str(number) / "counts.safetensors" for number in range(4)]
    for file in files:
        write_counts(file.parent, counts)
    assert len({file.read_bytes() for file in files}) == 1


def test_files_that_are_no_counts_are_refused(tmp_path):
    with pytest.raises(UserError, match="There is no .*counts.safetensors: evaluate again"):
        read_counts(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "counts.safetensors")
    with pytest.raises(UserError, match="is not a file of counts that this version reads"):
        read_counts(tmp_path)
    (tmp_path / "counts.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match="counts.safetensors"):
        read_counts(tmp_path)


def test_images_are_named_by_their_files_and_by_folders_where_these_are_alike():
    assert image_names(["/data/x/1.jpg", "/data/y/2.jpg"]) == ["1", "2"]
    assert image_names(["/data/x/1.jpg", "/data/y/1.jpg"]) == ["x/1", "y/1"]
    assert image_names(["/data/x/1.jpg", "/data/x/1.png"]) == ["1.jpg", "1.png"]
    assert len(set(image_names(["x/1.jpg", "/data/x/1.jpg"]))) == 2


def test_results_are_found_from_any_of_their_paths(tmp_path):
    first, second = tmp_path / "inference" / "one_val", tmp_path / "inference" / "two_val"
    with pytest.raises(UserError, match="holds no results of an evaluation"):
        find_results(tmp_path)
    for folder in (first, second):
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({"dataset": folder.name, "results": {}}))
    assert find_results(first) == find_results(first / "results.json") == first
    assert find_results(tmp_path, "two_val") == second
    with pytest.raises(UserError, match=r"choose one with --dataset \(one_val, two_val\)"):
        find_results(tmp_path)
    with pytest.raises(UserError, match="no results on three_val: it has those on one_val, two_val"):
        find_results(tmp_path, "three_val")
    (first / "results.json").write_text("[]")
    with pytest.raises(UserError, match="results.json cannot be read"):
        read_results(first)
