"""prepare_cityscapes.py on a miniature of the original layout."""

import json

import numpy as np
import pytest

from maft.data.checking import check_dataset
from maft.data.reading import read_panoptic_ids
from maft.data.records import dataset_records
from maft.errors import UserError

# Two cars (26), a group of persons (24), road (7).
MUNSTER = np.array([[26000, 26001, 24, 7]], np.uint16)


@pytest.fixture
def cityscapes(root, write_map):
    """Two cities a split; road 7, licence plate 255, unlabelled 0, bicycle 33."""
    for split, cities in (("train", ("aachen", "bochum")), ("val", ("frankfurt", "munster"))):
        for city in cities:
            stem = f"{split}/{city}/{city}_000000_000019"
            write_map(f"cityscapes/leftImg8bit/{stem}_leftImg8bit.png", np.zeros((1, 4, 3), np.uint8))
            labels = [[7, 255, 0, 33]] if city != "munster" else [[26, 26, 24, 7]]
            write_map(f"cityscapes/gtFine/{stem}_gtFine_labelIds.png", np.array(labels, np.uint8))
            instances = np.array([[7, 1, 0, 33001]], np.uint16) if city != "munster" else MUNSTER
            write_map(f"cityscapes/gtFine/{stem}_gtFine_instanceIds.png", instances)
            write_map(f"cityscapes/gtFine/{stem}_gtFine_color.png", np.zeros((1, 4, 4), np.uint8))
    return root


def test_training_ids_and_counts(cityscapes, prepare, read_map) -> None:
    printed = prepare("cityscapes")
    path = "cityscapes/gtFine/val/frankfurt/frankfurt_000000_000019_gtFine_labelTrainIds.png"
    assert read_map(path).tolist() == [[0, 255, 255, 18]]
    records = dataset_records("cityscapes_val")
    assert [record["image_id"] for record in records] == ["frankfurt_000000_000019", "munster_000000_000019"]
    assert records[0]["file_name"].endswith("val/frankfurt/frankfurt_000000_000019_leftImg8bit.png")
    assert "cityscapes_train label maps: 2 (PUBLISHED: 2975)" in printed


def test_panoptic_and_instances(cityscapes, prepare, read_map) -> None:
    printed = prepare("cityscapes", "--splits", "val")
    record = dataset_records("openvocab_cityscapes_fine_panoptic_val")[1]
    assert (record["image_id"], record["height"], record["width"]) == ("munster_000000_000019", 1, 4)
    segments = {segment["id"]: segment for segment in record["segments_info"]}
    found = [segments[id_] for id_ in read_panoptic_ids(record["pan_seg_file_name"])[0].tolist()]
    assert [segment["category_id"] for segment in found] == [13, 13, 11, 0]
    assert [segment["iscrowd"] for segment in found] == [0, 0, 1, 0]
    assert [segment["id"] for segment in found] == MUNSTER[0].tolist()
    assert check_dataset("cityscapes_panoptic_val").problems == []
    assert "cityscapes_panoptic_val segments: 6" in printed


def test_what_cityscapesscripts_has_written_is_the_same_and_is_used(cityscapes, prepare, tree, read_map) -> None:
    conversion = pytest.importorskip("cityscapesscripts.preparation.createPanopticImgs")
    folder = cityscapes / "cityscapes/gtFine"
    prepare("cityscapes", "--splits", "val")
    table = json.loads((folder / "cityscapes_panoptic_val.json").read_text())
    pictures = {name: state[0] for name, state in tree().items() if name.endswith("_panoptic.png")}
    ours = {name: read_map(name).tolist() for name in pictures}
    for file in (folder / "cityscapes_panoptic_val").iterdir():
        file.unlink()
    conversion.convert2panoptic(str(folder), str(folder), False, ["val"])
    official = json.loads((folder / "cityscapes_panoptic_val.json").read_text())
    assert {name: read_map(name).tolist() for name in ours} == ours and len(ours) == 2
    assert official["annotations"] == table["annotations"]
    kept = ("id", "name", "isthing")
    assert [{key: category[key] for key in kept} for category in official["categories"]] == table["categories"]
    before = tree()
    prepare("cityscapes", "--splits", "val")
    assert tree() == before
    assert len(dataset_records("cityscapes_panoptic_val")) == 2


def test_survives_a_kill(cityscapes, kill_and_finish) -> None:
    assert "cityscapes_val label maps: 2" in kill_and_finish("cityscapes")


@pytest.mark.parametrize("value", [99, 254, 34000, 60001])
def test_instance_maps_with_unknown_ids(cityscapes, prepare, write_map, value) -> None:
    place = "cityscapes/gtFine/val/munster/munster_000000_000019_gtFine_instanceIds.png"
    write_map(place, np.array([[7, 255, 29001, value]], np.uint16))
    assert f"gtFine_instanceIds.png holds the unknown id {value}" in prepare("cityscapes", status=1)
    # Label maps in their place.
    write_map(place, np.array([[26, 26, 24, 7]], np.uint8))
    assert "gtFine_instanceIds.png is not an instance map (16 bit)" in prepare("cityscapes", status=1)


def test_images_of_one_name_share_no_panoptic_map(cityscapes, prepare) -> None:
    prepare("cityscapes", "--splits", "val")
    for path in list((cityscapes / "cityscapes").rglob("munster_*")):
        if "cityscapes_panoptic_val" not in path.parts:
            path.rename(path.with_name(path.name.replace("munster", "frankfurt")))
    with pytest.raises(UserError, match="has an image named 'frankfurt_000000_000019' more than once"):
        dataset_records("cityscapes_panoptic_val")
    message = prepare("cityscapes", "--splits", "val", status=1)
    assert "leftImg8bit/val has an image named 'frankfurt_000000_000019' more than once" in message


def test_panoptic_files_of_another_origin_are_not_overwritten(cityscapes, prepare, write_map) -> None:
    folder = cityscapes / "cityscapes/gtFine"
    prepare("cityscapes", "--splits", "val")
    file, map_ = folder / "cityscapes_panoptic_val.json", next((folder / "cityscapes_panoptic_val").iterdir())
    made, table = file.read_text(), json.loads(file.read_text())
    # Of some of the images, as made before the others came.
    file.write_text(json.dumps({**table, "annotations": table["annotations"][:1]}))
    map_.unlink()
    prepare("cityscapes", "--splits", "val")
    assert file.read_text() == made
    table["annotations"][0]["segments_info"][0]["area"] += 1
    for content in (json.dumps(table), "{}", "half"):
        file.write_text(content)
        map_.unlink()
        message = prepare("cityscapes", "--splits", "val", status=1)
        assert "cityscapes_panoptic_val.json is damaged or was made of something else" in message
        assert file.read_text() == content
    file.unlink()
    write_map(str(map_), np.full((1, 4, 3), 1, np.uint8))
    message = prepare("cityscapes", "--splits", "val", status=1)
    assert f"{map_.name} shows other segments than are made of" in message and "_instanceIds.png: remove it" in message


def test_faults(cityscapes, prepare, write_map) -> None:
    place = "cityscapes/gtFine/val/munster/munster_000000_000019_gtFine_labelIds.png"
    write_map(place, np.array([[34]], np.uint8))
    assert "munster_000000_000019_gtFine_labelIds.png holds the unknown id 34" in prepare("cityscapes", status=1)
    (cityscapes / place).unlink()
    message = prepare("cityscapes", "--splits", "val", status=1)
    assert "1 of 2 label maps are missing" in message and "cityscapes-dataset.com" in message
