"""Two runs compared, and one added up again: tables, sentences, and runs that cannot be compared."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from counted_runs import run

from maft.cli.compare import main
from maft.errors import UserError
from maft.evaluation.compare import compare_runs, in_order_of
from maft.evaluation.counts import Counts, write_counts
from maft.evaluation.report import write_results


def written(folder, counts, evaluator, **facts):
    place = folder / "inference" / "somewhere_val"
    write_counts(place, counts)
    write_results(place, evaluator.evaluate(), {"dataset": "somewhere_val", **facts})
    return place


@pytest.fixture
def folders(tmp_path):
    hashes = {"config": "1", "data": "2", "code": {"sha256": "3"}, "weights": "4"}
    for name, wrong, seed, changes in (("good", 0.2, 1, {}), ("bad", 0.5, 2, {"weights": "5"})):
        written(tmp_path / name, *run(wrong, seed), provenance={**hashes, **changes})
    return tmp_path


def test_two_runs_with_a_difference(folders, capsys):
    output = folders / "comparison.json"
    assert main([str(folders / "bad"), str(folders / "good"), "--output", str(output)]) == 0
    text = capsys.readouterr().out
    assert "The second run is better: +" in text and "are more than noise." in text
    assert "Provenance: config the same, data the same, code the same, weights another." in text
    assert "Classes that differ by more than noise: IoU-a" in text
    written = json.loads(output.read_text())
    task = written["tasks"]["sem_seg"]
    assert not task["noise"] and written["same"] == {"config": True, "data": True, "code": True, "weights": False}
    assert [row["name"] for row in task["means"]] == ["mIoU", "seen_mIoU", "unseen_mIoU", "harmonic_mIoU", "pACC"]
    assert [row["name"] for row in task["classes"]] == ["IoU-a", "IoU-b", "IoU-c", "IoU-d"]
    first = json.loads((folders / "bad/inference/somewhere_val/results.json").read_text())["results"]["sem_seg"]
    assert all(row["first"] == pytest.approx(first[row["name"]]) for row in task["means"] + task["classes"])
    assert len(task["images"]) == 40 and {"name", "first", "second"} == set(task["images"][0])


def test_a_run_and_itself(folders, capsys):
    assert main([str(folders / "good"), str(folders / "good")]) == 0
    assert "mIoU does not differ: both runs have the same numbers in every image." in capsys.readouterr().out


def test_noise_is_called_so(folders, tmp_path, capsys):
    written(tmp_path / "again", *run(0.2, 3))
    assert main([str(folders / "good"), str(tmp_path / "again")]) == 0
    text = capsys.readouterr().out
    assert "The difference is noise: " in text and "can come about by chance." in text
    assert "Classes that differ by more than noise: none." in text and "Provenance" not in text


def test_one_run_is_added_up_again(folders, capsys):
    output = folders / "table.json"
    assert main([str(folders / "good" / "inference" / "somewhere_val"), "--output", str(output)]) == 0
    text = capsys.readouterr().out
    assert "numbers of sem_seg are those of" in text and "mean IoU over the classes in the ground truth" in text
    path = folders / "good/inference/somewhere_val/results.json"
    report = json.loads(path.read_text())
    assert json.loads(output.read_text())["results"] == report["results"]
    report["results"]["sem_seg"]["mIoU"] += 0.5
    path.write_text(json.dumps(report))
    assert main([str(path)]) == 1
    assert "1 of " in (text := capsys.readouterr().out) and "the first is mIoU of sem_seg" in text


def test_what_no_counts_are_kept_of_is_named(folders, capsys):
    path = folders / "good/inference/somewhere_val/results.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps({**report, "results": {**report["results"], "segm": {"AP": 12.0}}}))
    assert main([str(path)]) == 0
    text = capsys.readouterr().out
    assert "Not added up, as no counts of images are kept: segm." in text and "numbers of sem_seg are those of" in text


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ({"provenance": None}, "its provenance is no table"),
        ({"provenance": ["a"]}, "its provenance is no table"),
        ({"results": {"sem_seg": {"mIoU": "abc"}}}, "its mIoU is no number"),
        ({"results": {"sem_seg": [1]}}, "its results are no tables"),
    ],
)
def test_damaged_results_are_one_sentence(folders, damage, sentence):
    path = folders / "good/inference/somewhere_val/results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    for arguments in ([str(folders / "good")], [str(folders / "good"), str(folders / "bad")]):
        with pytest.raises(UserError, match=sentence):
            main(arguments)


def test_another_dataset_than_that_of_the_folder_is_refused(folders):
    with pytest.raises(UserError, match="is an evaluation on somewhere_val, not on nonsense"):
        main([str(folders / "good/inference/somewhere_val"), "--dataset", "nonsense"])


def reordered(counts, order):
    """The same counts of images that the dataset lists in another order."""
    of = counts.of
    back = torch.tensor(order).argsort()
    table = dict(counts.tables["sem_seg"])
    table["image"] = back[table["image"].long()]
    rows = table["image"].argsort(stable=True)
    lists = {name: tuple(getattr(of, name)[place] for place in order) for name in ("files", "names", "ids")}
    tables = {"sem_seg": {name: values[rows] for name, values in table.items()}}
    return Counts(replace(of, **lists), tables, counts.pictures[order], counts.annotations[order])


def test_images_are_the_same_by_their_names(folders, tmp_path):
    counts, evaluator = run(0.5, 2)
    order = np.random.default_rng(0).permutation(40).tolist()
    other = written(tmp_path / "other", reordered(counts, order), evaluator)
    good, bad = (folders / name / "inference/somewhere_val" for name in ("good", "bad"))
    expected, found = compare_runs(good, bad), compare_runs(good, other)
    np.testing.assert_array_equal(found.scores["sem_seg"].low, expected.scores["sem_seg"].low)
    np.testing.assert_array_equal(found.images["sem_seg"].second, expected.images["sem_seg"].second)


def changed(counts, **changes):
    return replace(counts, of=replace(counts.of, **changes))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda c: changed(c, class_names=("a", "b", "c", "e"), dataset="other_val"),
            "on somewhere_val, the second on other_val, with another classes|number 3 is 'd' and 'e'",
        ),
        (lambda c: changed(c, protocol="unseen_only"), "another protocol .generalized, unseen_only"),
        (lambda c: changed(c, seen=None), "another split into seen and unseen classes"),
        (
            lambda c: changed(c, names=(*c.of.names[:30], *(f"x{n}" for n in range(10)))),
            r"10 of 40 images of the first run are not in the other: 30, 31, 32, 33, 34, \.\.\.; "
            r"10 of 40 images of the second run are not in the other: x0, x1",
        ),
        (
            lambda c: replace(c, pictures=c.pictures.roll(1, 0)),
            "40 of 40 images are other files of the same name: 0",
        ),
        (
            lambda c: replace(c, annotations=torch.cat([c.annotations[:1] + 1, c.annotations[1:]])),
            "1 of 40 images have other annotations of the same name: 0.",
        ),
    ],
)
def test_runs_that_cannot_be_compared_are_told_why(change, sentence):
    first, second = run(0.2)[0], run(0.3)[0]
    with pytest.raises(UserError, match=sentence) as error:
        in_order_of(first, change(second))
    assert "\n" not in str(error.value)


def test_runs_without_common_results(folders, tmp_path):
    counts, evaluator = run(0.2)
    other = written(tmp_path / "other", Counts(counts.of, {}, counts.pictures, counts.annotations), evaluator)
    with pytest.raises(UserError, match="no results of one kind: the first counted sem_seg, the second nothing"):
        compare_runs(folders / "good/inference/somewhere_val", other)
