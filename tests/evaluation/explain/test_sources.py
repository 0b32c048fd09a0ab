"""A run or an index is found, and what is no such thing is said in one sentence."""

import json
import re

import pytest

from maft.cli.explain import described, main
from maft.errors import UserError
from maft.evaluation.explain.sections import CAUSES
from maft.evaluation.explain.sources import find_source
from maft.index.format import INDEX_FILE, Contents, Manifest, Settings, ShardFacts, written

from .hand_made import explanation


@pytest.fixture
def empty_index():
    """Function: the list of an index without masks."""

    def write(folder, dataset):
        folder.mkdir(parents=True)
        settings = Settings(model="aa", images=1, files="bb", dataset=dataset)
        (folder / INDEX_FILE).write_text(
            written(Manifest(settings, Contents(1, 0, False, (ShardFacts(1, 0, 0, 0),), {})))
        )
        return folder

    return write


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "out" / "inference" / "miniature_val"
    folder.mkdir(parents=True)
    facts = {"dataset": "miniature_val", "results": {}, "weights": "model.pth", "provenance": {"data": "cc"}}
    (folder / "results.json").write_text(json.dumps(facts))
    return folder


def test_a_run_is_explained_by_the_index_that_it_kept(run, empty_index):
    index = empty_index(run / "index", "miniature_val")
    for given in (run, run.parents[1]):
        source = find_source(given)
        assert (source.index, source.dataset, source.output) == (index, "miniature_val", run / "explanation")
        assert source.facts["provenance"] == {"data": "cc"} and source.facts["index"]["model"] == "aa"


def test_an_index_knows_its_dataset(tmp_path, empty_index):
    index = empty_index(tmp_path / "own", "miniature_val")
    assert find_source(index).dataset == find_source(index, "miniature_val").dataset == "miniature_val"
    with pytest.raises(UserError, match="is of miniature_val, not of voc_20_val"):
        find_source(index, "voc_20_val")


def test_an_index_of_photographs_needs_a_dataset(tmp_path, empty_index):
    index = empty_index(tmp_path / "photos", "")
    assert find_source(index, "miniature_val").dataset == "miniature_val"
    with pytest.raises(UserError, match="does not say which dataset its images are of: name it with --dataset"):
        find_source(index)


def test_a_run_without_an_index_is_told_how_to_make_one(run):
    with pytest.raises(UserError, match="TEST.SAVE_INDEX True, or explain an index that maft index --dataset minia"):
        main([str(run)])


def test_what_is_no_run_is_refused(tmp_path, run):
    with pytest.raises(UserError, match="does not exist"):
        find_source(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no results"):
        find_source(tmp_path)
    with pytest.raises(UserError, match="an evaluation on miniature_val, not on voc"):
        find_source(run, "voc_20_val")


def test_so_many_pictures_are_refused(run, capsys):
    with pytest.raises(UserError, match="--worst: 1000 does not lie in 0 to 100"):
        main([str(run), "--worst", "1000"])


def test_the_parts_are_printed_as_a_table(tmp_path):
    lines = described(explanation(tmp_path)).splitlines()
    assert lines[0] == "miniature_val: 54.8 % mIoU. Points that are missing to 100 %:"
    assert re.split(" {2,}", lines[1].strip()) == ["loss", *CAUSES.values()]
    assert lines[3].split() == ["in", "all", "45.2", "13.6", "18.1", "4.5", "6.8", "2.3"]
    assert [line.split()[0] for line in lines[4:6]] == ["seen", "unseen"] and len(lines) == 16
