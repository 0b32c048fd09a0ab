"""prepare_coco_stuff.py and prepare_coco_panoptic.py on miniatures of the original layout."""

import json
import os

import numpy as np
import pytest

from maft.data.catalog import class_names, dataset
from maft.data.records import dataset_records
from maft.errors import UserError

STUFF = "coco/stuffthingmaps"


@pytest.fixture
def stuff(root, write_map):
    """Four training and two validation images; raw values person 0, cow 20 (unseen), wood 181, nothing 255."""
    raw = {
        "train2017/000000000001": [[0, 20, 181, 255]],
        "train2017/000000000002": [[20, 20, 255, 255]],
        "train2017/000000000003": [[255, 255, 255, 255]],
        "train2017/000000000004": [[171, 181, 0, 91]],
        "val2017/000000000005": [[0, 1, 2, 181]],
        "val2017/000000000006": [[255, 255, 255, 255]],
    }
    for name, values in raw.items():
        write_map(f"coco/{name}.jpg", np.zeros((1, 4, 3), np.uint8))
        write_map(f"{STUFF}/{name}.png", np.array(values, np.uint8))
    return root


def test_stuff_ids_and_counts(stuff, prepare, read_map) -> None:
    printed = prepare("coco_stuff")
    out = "coco/stuffthingmaps_detectron2"
    cow = class_names("coco_stuff_val").index("cow")
    assert read_map(f"{out}/train2017/000000000001.png").tolist() == [[0, cow, 170, 255]]
    assert read_map(f"{out}/train2017_seen/000000000001.png").tolist() == [[0, 255, 155, 255]]
    assert read_map(f"{out}/val2017/000000000005.png").tolist() == [[0, 1, 2, 170]]
    # Images without anything to learn are left out of training sets, and stay in the validation set.
    assert [record["image_id"] for record in dataset_records("coco_stuff_train")] == [1, 2, 4]
    assert [record["image_id"] for record in dataset_records("coco_stuff_train_seen")] == [1, 4]
    assert [record["image_id"] for record in dataset_records("coco_stuff_val")] == [5, 6]
    assert "coco_stuff_train label maps: 3 (PUBLISHED: 118280), 1 images without any labelled pixel" in printed
    assert "coco_stuff_train_seen label maps: 2, 2 images without" in printed


def test_stuff_seen_labels_follow_the_seen_names(stuff, prepare, read_map) -> None:
    prepare("coco_stuff", "--splits", "train")
    labels = read_map("coco/stuffthingmaps_detectron2/train2017_seen/000000000004.png")[0]
    names = class_names("coco_stuff_train_seen")
    everything = class_names("coco_stuff_train")
    whole = read_map("coco/stuffthingmaps_detectron2/train2017/000000000004.png")[0]
    assert everything[whole[0]] == "wall-concrete" and labels[0] == 255
    assert [names[label] for label in labels[1:]] == [everything[label] for label in whole[1:]]


def test_stuff_survives_a_kill(stuff, kill_and_finish) -> None:
    assert "coco_stuff_val label maps: 2" in kill_and_finish("coco_stuff")


def test_stuff_says_what_is_missing(stuff, prepare, write_map) -> None:
    (stuff / STUFF / "val2017/000000000005.png").unlink()
    message = prepare("coco_stuff", "--splits", "val", status=1)
    assert "1 of 2 stuffthingmaps are missing, such as" in message and "github.com/nightrome/cocostuff" in message
    write_map(f"{STUFF}/val2017/000000000005.png", np.array([[0, 200]], np.uint8))
    message = prepare("coco_stuff", "--splits", "val", status=1)
    assert "000000000005.png holds the unknown id 200" in message
    (stuff / "coco/val2017").rename(stuff / "coco/val")
    (stuff / STUFF).rename(stuff / "elsewhere")
    message = prepare("coco_stuff", "--splits", "val", status=1)
    assert "val2017.zip" in message and "stuffthingmaps_trainval2017.zip" in message and message.count("Missing") == 1


def test_a_missing_root_is_named(root, prepare) -> None:
    message = prepare("coco_stuff", "--root", str(root / "no"), status=1)
    assert "no does not exist" in message and "DETECTRON2_DATASETS" in message


@pytest.fixture
def panoptic(root, write_map):
    """Panoptic PNGs with ids above 65535; person 1, rug 200, void 0."""
    for split, numbers in (("train", (1, 2)), ("val", (3, 4))):
        annotations, images = [], []
        for number in numbers:
            stem = f"{number:012d}"
            ids = np.array([[0, 70000, 7], [70000, 300, 0]])
            write_map(f"coco/{split}2017/{stem}.jpg", np.zeros((2, 3, 3), np.uint8))
            colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
            write_map(f"coco/panoptic_{split}2017/{stem}.png", colours)
            images.append({"id": number, "file_name": f"{stem}.jpg", "height": 2, "width": 3})
            segments = [
                {"id": 70000, "category_id": 1, "iscrowd": 0, "area": 2, "bbox": [0, 0, 2, 2]},
                {"id": 7, "category_id": 200, "iscrowd": 0, "area": 1, "bbox": [2, 0, 1, 1]},
                {"id": 300, "category_id": 1, "iscrowd": 1, "area": 1, "bbox": [1, 1, 1, 1]},
            ]
            annotations.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": segments})
        categories = [{"id": id_} for id_ in dataset("coco_panoptic_val").classes.category_ids]
        (root / "coco/annotations").mkdir(exist_ok=True)
        (root / f"coco/annotations/panoptic_{split}2017.json").write_text(
            json.dumps({"images": images, "annotations": annotations, "categories": categories})
        )
    return root


def test_panoptic_semantic_form(panoptic, prepare, read_map) -> None:
    printed = prepare("coco_panoptic")
    assert read_map("coco/panoptic_semseg_val2017/000000000003.png").tolist() == [[255, 0, 132], [0, 0, 255]]
    assert "coco_133_val label maps: 2 (PUBLISHED: 5000)" in printed
    assert len(dataset_records("coco_133_train")) == 2
    record = dataset_records("openvocab_coco_2017_val_panoptic_with_sem_seg")[1]
    assert (record["image_id"], record["height"], record["width"]) == (4, 2, 3)
    assert [s["category_id"] for s in record["segments_info"]] == [0, 132, 0]
    assert [s["isthing"] for s in record["segments_info"]] == [True, False, True]
    assert record["pan_seg_file_name"].endswith("panoptic_val2017/000000000004.png")


def test_panoptic_survives_a_kill(panoptic, kill_and_finish) -> None:
    assert "coco_133_train label maps: 2" in kill_and_finish("coco_panoptic")


def test_panoptic_unlisted_segment(panoptic, prepare, write_map) -> None:
    write_map("coco/panoptic_val2017/000000000003.png", np.full((2, 3, 3), 9, np.uint8))
    message = prepare("coco_panoptic", "--splits", "val", status=1)
    assert "000000000003.png holds the segment 592137, which its JSON does not list" in message


def test_panoptic_damaged_json(panoptic, prepare) -> None:
    prepare("coco_panoptic", "--splits", "val")
    file = panoptic / "coco/annotations/panoptic_val2017.json"
    file.write_text(file.read_text()[:100])
    with pytest.raises(UserError, match=r"panoptic_val2017\.json cannot be read"):
        dataset_records("coco_panoptic_val")
    file.write_text("[]")
    assert "panoptic_val2017.json has no 'annotations'" in prepare("coco_panoptic", "--splits", "val", status=1)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (
            {"file_name": "../val2017/000000000003.jpg"},
            "names the file '../val2017/000000000003.jpg', which does not lie",
        ),
        ({"file_name": "/etc/passwd.png"}, "names the file '/etc/passwd.png', which does not lie below"),
        ({"file_name": None}, "is not in COCO's format (annotations.1.file_name:"),
        ({"segments_info": None}, "is not in COCO's format (annotations.1.segments_info:"),
        ({"segments_info": [{"id": 7, "category_id": 1.7}]}, "(annotations.1.segments_info.0.category_id:"),
        ({"segments_info": [{"id": 7, "category_id": 2**31}]}, "(annotations.1.segments_info.0.category_id:"),
        ({"segments_info": [{"id": 7, "category_id": id_} for id_ in (1, 2)]}, "image 4 has segment 7 more than once"),
        ({"file_name": "000000000003.png"}, "lists 000000000003 more than once"),
    ],
)
def test_panoptic_entries_that_cannot_be_used(panoptic, prepare, entry, complaint) -> None:
    file = panoptic / "coco/annotations/panoptic_val2017.json"
    table = json.loads(file.read_text())
    table["annotations"][1].update(entry)
    file.write_text(json.dumps(table))
    message = prepare("coco_panoptic", "--splits", "val", status=1)
    assert complaint in message and "panoptic_val2017.json" in message


def test_nothing_is_not_prepared_with_success(panoptic, stuff, prepare) -> None:
    file = panoptic / "coco/annotations/panoptic_val2017.json"
    file.write_text('{"images": [], "annotations": [], "categories": []}')
    message = prepare("coco_panoptic", "--splits", "val", status=1)
    assert "There are no panoptic PNGs of panoptic_val2017.json for coco_133_val" in message
    for image in (stuff / "coco/val2017").iterdir():
        image.rename(image.with_suffix(".JPG"))
    message = prepare("coco_stuff", "--splits", "val", status=1)
    assert "There is no image (*.jpg) in" in message and "val2017: get them from https://github.com" in message


def test_a_name_that_no_json_holds_is_refused_at_the_start(stuff, prepare) -> None:
    (stuff / os.fsdecode(b"coco/val2017/\xff.jpg")).touch()
    message = prepare("coco_stuff", "--splits", "val", status=1)
    assert r"The name of image '\udcff' in" in message and message.endswith("is no UTF-8 text: rename it.\n")


def test_categories_under_each_others_names_are_refused(panoptic, prepare) -> None:
    prepare("coco_panoptic", "--splits", "val")
    file = panoptic / "coco/annotations/panoptic_val2017.json"
    table = json.loads(file.read_text())
    names = list(dataset("coco_panoptic_val").classes.names())
    for right in (True, False):
        for category, name in zip(table["categories"], names):
            category["name"] = name
        file.write_text(json.dumps(table))
        if right:
            assert len(dataset_records("coco_panoptic_val")) == 2
            names[0], names[1] = names[1], names[0]
    with pytest.raises(UserError, match="calls label 0 of coco_panoptic_133 'bicycle', but that is label 1"):
        dataset_records("coco_panoptic_val")
