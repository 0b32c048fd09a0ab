"""A tree in another repository's layout: one command says what to link, and then the dataset loads."""

import os
import shlex
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from maft.data import records
from maft.data.catalog import TABLE, dataset
from maft.data.layouts import _TABLE, link_advice
from maft.data.records import dataset_records
from maft.errors import UserError


def follow(message):
    """Runs the command that a sentence ends in."""
    subprocess.run(message[message.index("mkdir -p") :].removesuffix("."), shell=True, check=True)


def test_label_maps_and_images_of_fcclip_are_linked_one_after_the_other(root, write_map, monkeypatch) -> None:
    for stem in ("a", "b"):
        write_map(f"pascal_voc_d2/images/validation/{stem}.jpg", np.zeros((2, 3, 3), np.uint8))
        write_map(f"pascal_voc_d2/annotations_pascal20/validation/{stem}.png", np.zeros((2, 3), np.uint8))
    for what in ("images", "labels"):
        with pytest.raises(UserError, match=f"voc_20_val has no {what}.*link it from the layout of another") as raised:
            dataset_records("voc_20_val")
        assert str(raised.value).count("\n") == 0
        follow(str(raised.value))
    # Linked maps have no report: only as many as published are known to be all.
    with pytest.raises(UserError, match="voc_20_val is half prepared: 2, and no report"):
        dataset_records("voc_20_val")
    whole = replace(dataset("voc_20_val"), images_expected=2)
    monkeypatch.setattr(records, "dataset", lambda name: whole)
    assert [record["image_id"] for record in dataset_records("voc_20_val")] == ["a", "b"]


def test_a_preparation_says_what_to_link(root, prepare, write_map) -> None:
    write_map("VOC2012/JPEGImages/a.jpg", np.zeros((2, 3, 3), np.uint8))
    message = prepare("voc", "--splits", "val", status=1)
    assert "Missing: " in message and message.count("ln -s") == 1
    follow(message.strip())
    assert (root / "VOCdevkit/VOC2012/JPEGImages/a.jpg").is_file()
    message = prepare("voc", "--splits", "val", status=1)
    assert "ln -s" not in message and "val.txt" in message


def test_names_are_quoted_and_what_is_there_is_left_alone(tmp_path) -> None:
    root = tmp_path / "my data"
    (root / "coco/images/val2017").mkdir(parents=True)
    advice = link_advice(root / "coco/val2017")
    assert shlex.split(advice)[-3:] == ["-s", str(root / "coco/images/val2017"), str(root / "coco/val2017")]
    (root / "coco/val2017").mkdir()
    assert link_advice(root / "coco/val2017") == link_advice(root / "coco/train2017") == ""


def test_the_table_names_folders_of_the_catalogue() -> None:
    used = {path for row in TABLE for path in (row.images, row.labels, row.panoptic_root)}
    for ours in _TABLE:
        places = [ours.replace("instances", "labels"), *(path for path in used if path.startswith(f"{ours}/"))]
        assert any(os.path.normpath(place) in used for place in places), ours
