"""prepare_mapillary.py on a miniature of the layout of version 1.2."""

import json

import numpy as np
import pytest

from maft.config_keys import default_config
from maft.data.catalog import dataset
from maft.data.checking import check_dataset
from maft.data.records import dataset_records
from maft.evaluation.evaluators import chosen_evaluators

VALIDATION = "mapillary_vistas/validation"


@pytest.fixture
def mapillary(root, write_map):
    """One image a split: two birds (label 0, a thing), sky (27, stuff), unlabelled."""
    for folder in ("training", "validation"):
        place = f"mapillary_vistas/{folder}"
        write_map(f"{place}/images/a-b_1.jpg", np.zeros((1, 4, 3), np.uint8))
        write_map(f"{place}/labels/a-b_1.png", np.array([[0, 0, 27, 65]], np.uint8))
        write_map(f"{place}/instances/a-b_1.png", np.array([[0, 1, 27 * 256, 65 * 256]], np.uint16))
    return root


def test_panoptic_annotation_is_made(mapillary, prepare, read_map) -> None:
    printed = prepare("mapillary")
    assert "mapillary_panoptic_val label maps: 1 (PUBLISHED: 2000)" in printed
    record = dataset_records("openvocab_mapillary_vistas_panoptic_val")[0]
    assert read_map(record["pan_seg_file_name"])[0, :, 0].tolist() == [1, 2, 3, 0]
    found = [(segment["category_id"], segment["isthing"], segment["area"]) for segment in record["segments_info"]]
    assert found == [(0, True, 1), (0, True, 1), (27, False, 1)]
    table = json.loads((mapillary / VALIDATION / "panoptic/panoptic_2018.json").read_text())
    assert [category["id"] for category in table["categories"]] == list(range(1, 66))
    assert sum(category["isthing"] for category in table["categories"]) == 37
    assert check_dataset("mapillary_panoptic_val").problems == []


def test_file_names_of_digits_alone_and_fewer_images_than_published(root, write_map, prepare, caplog) -> None:
    write_map(f"{VALIDATION}/images/07.jpg", np.zeros((1, 2, 3), np.uint8))
    write_map(f"{VALIDATION}/labels/07.png", np.array([[0, 27]], np.uint8))
    write_map(f"{VALIDATION}/instances/07.png", np.array([[0, 27 * 256]], np.uint16))
    prepare("mapillary", "--splits", "val")
    assert len(dataset_records("mapillary_panoptic_val")[0]["segments_info"]) == 2
    assert "mapillary_panoptic_val has 1 images here, and published numbers are of 2000: they do not" in caplog.text


def test_that_of_the_release_is_used(mapillary, prepare, tree) -> None:
    prepare("mapillary", "--splits", "val")
    (mapillary / VALIDATION / "instances/a-b_1.png").unlink()
    before = tree()
    assert "mapillary_panoptic_val segments: 3" in prepare("mapillary", "--splits", "val")
    assert tree() == before


def test_survives_a_kill(mapillary, write_map, kill_and_finish) -> None:
    assert "mapillary_panoptic_val segments: 3" in kill_and_finish("mapillary")


def test_instances_are_not_measured() -> None:
    assert chosen_evaluators(default_config(), dataset("mapillary_panoptic_val")) == ["semantic"]
    cfg = default_config()
    cfg.MODEL.INFERENCE.PANOPTIC = cfg.MODEL.INFERENCE.INSTANCE = True
    assert chosen_evaluators(cfg, dataset("mapillary_panoptic_val")) == ["semantic", "panoptic"]


def test_faults(mapillary, prepare, write_map) -> None:
    write_map(f"{VALIDATION}/instances/a-b_1.png", np.full((1, 4), 66 * 256, np.uint16))
    assert "a-b_1.png is not an instance map (16 bit) of Mapillary Vistas" in prepare("mapillary", status=1)
    # A label map in its place would be birds alone, which are label 0.
    write_map(f"{VALIDATION}/instances/a-b_1.png", np.array([[0, 0, 27, 65]], np.uint8))
    assert "a-b_1.png is not an instance map (16 bit) of Mapillary Vistas" in prepare("mapillary", status=1)
    (mapillary / VALIDATION / "labels/a-b_1.png").unlink()
    message = prepare("mapillary", "--splits", "val", status=1)
    assert "1 of 1 label maps are missing" in message and "mapillary.com" in message
