"""Tables and files of results."""

import csv
import json
import math

import pytest

from maft.errors import UserError
from maft.evaluation.report import (
    definition,
    expected_table,
    results_table,
    write_per_class,
    write_results,
)

RESULTS = {
    "sem_seg": {"mIoU": 41.25, "unseen_mIoU": 12.5, "IoU-tree": 50.0, "IoU-palm-tree": math.nan, "ACC-tree": 75.0},
    "panoptic_seg": {"PQ": 30.0, "PQ_th": 28.0, "PQ-tree": 31.0, "PQ-palm-tree": 0.0},
}


def test_every_mean_has_a_definition_and_no_class_has():
    for name in ("mIoU", "mIoU_or_predicted", "harmonic_pACC", "PQ_st", "AP", "APs"):
        assert definition(name)
    assert definition("harmonic_mIoU").endswith("harmonic mean of seen and unseen")
    assert definition("IoU-tree") == definition("PQ-tree") == ""


def test_table_shows_means_and_leaves_classes_to_the_csv():
    table = results_table(RESULTS)
    assert "41.250" in table and "28.000" in table and "over the unseen classes" in table
    assert "tree" not in table


def test_expected_beside_measured():
    table = expected_table([("mIoU", 40.0), ("panoptic_seg/PQ", 31.5)], RESULTS)
    assert "1.250" in table and "-1.500" in table
    with pytest.raises(UserError, match="'sem_seg/PQ', which was not measured; measured were: mIoU, unseen_mIoU, PQ"):
        expected_table([("sem_seg/PQ", 1.0)], RESULTS)


def test_json_is_valid_without_nan(tmp_path):
    write_results(tmp_path, RESULTS, {"dataset": "d"})
    text = (tmp_path / "results.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["dataset"] == "d" and found["results"]["sem_seg"]["IoU-palm-tree"] is None
    assert found["results"]["panoptic_seg"]["PQ_th"] == 28.0


def test_csv_has_one_line_a_class_and_one_column_a_metric(tmp_path):
    classes = [{"class": 0, "name": "tree"}, {"class": 1, "name": "palm-tree"}]
    write_per_class(tmp_path / "c.csv", RESULTS, classes)
    with open(tmp_path / "c.csv") as file:
        first, second = csv.DictReader(file)
    assert list(first) == ["class", "name", "IoU", "ACC", "PQ"]
    assert (first["IoU"], first["ACC"], first["PQ"]) == ("50.0", "75.0", "31.0")
    assert (second["IoU"], second["ACC"], second["PQ"]) == ("", "", "0.0")
