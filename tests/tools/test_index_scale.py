"""What an index costs is measured and multiplied."""

from pathlib import Path

import pytest
from index_scale import Cost, costs_table, measured, one_thread, scales_table, size_of, time_of

from maft.index.reading import StoredIndex
from maft.miniature.dataset import materialise
from maft.predictor import Predictor

COST = Cost("a model", (64, 96), (16, 24), 100, 0.5, 400.0, 100.0, 20.0, 1000.0, 300.0, 1e6)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (2.5e12, "2.5 TB"), (8.25e15, "8.25 PB")]
)
def test_bytes_have_the_unit_that_fits(number, text):
    assert size_of(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.123, "0.12 s"), (119, "119 s"), (7200, "2 hours"), (10 * 86400, "10 days"), (9e8, "28.5 years")],
)
def test_seconds_have_the_unit_that_fits(seconds, text):
    assert time_of(seconds) == text


def test_collections_cost_so_many_times_one_image():
    assert COST.image_bytes(exact=True) == 152_300 and COST.image_bytes(exact=False) == 52_300
    lines = scales_table([COST]).splitlines()
    assert lines[2] == "| a model | 1 M | 1e+08 | 152 GB | 52.3 GB | 40 GB | 5.79 days | 100 s |"
    assert lines[3].startswith("| a model | 1 B | 1e+11 | 152 TB | 52.3 TB | 40 TB | 15.9 years |")
    assert "| looking, masks a second of a core | 200 |" in costs_table([COST])


def test_bytes_are_those_of_an_index(tmp_path):
    from maft.data.photos import PhotoMapper
    from maft.index.making import Collection, make_index

    files = sorted(map(str, Path(materialise(tmp_path, "val", 3)).rglob("images/*.*g")))
    predictor = Predictor.from_pretrained("miniature", device="cpu")
    with one_thread():
        cost = measured("miniature", predictor, files)
    for masks in ("exact", "binary"):
        collection = Collection([{"file_name": file} for file in files], PhotoMapper(predictor.cfg))
        make_index(predictor.cfg, predictor.model, tmp_path / masks, collection, masks=masks)
        expected = sum(StoredIndex(tmp_path / masks).contents.bytes.values()) / 3
        assert cost.image_bytes(exact=masks == "exact") == pytest.approx(expected, rel=0.05)
    assert cost.masks == 20 and cost.grid == (24, 24) and cost.look > 0 and cost.compared > 0
