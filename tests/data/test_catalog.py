"""The catalogue: names, vocabularies, registration, and what is said of a dataset that is not ready."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from maft.cli.prepare import DATASETS as PREPARED
from maft.data.catalog import TABLE, class_names, dataset, vocabulary
from maft.data.labels_report import labels_report_file, write_labels_report
from maft.data.miniature import ensure_miniature
from maft.data.preparation.labels import LABEL_RULES
from maft.data.records import dataset_records, image_id
from maft.errors import UserError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def image_and_label(root: Path, stem: str, split: str = "val2017") -> None:
    for folder, suffix in ((f"coco/{split}", "jpg"), (f"coco/stuffthingmaps_detectron2/{split}", "png")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        shape = (6, 8, 3) if suffix == "jpg" else (6, 8)
        Image.fromarray(np.full(shape, 3, np.uint8)).save(root / folder / f"{stem}.{suffix}")


def test_names_are_unique_and_rows_complete() -> None:
    names = Counter(name for row in TABLE for name in (row.name, *row.aliases))
    assert max(names.values()) == 1
    for row in TABLE:
        assert row.prepare in ("", "miniature", *PREPARED), row.prepare
        assert row.label_rule in LABEL_RULES or row.name.startswith("miniature_")
        assert row.homepage.startswith("http") or row.name.startswith("miniature_")


@pytest.mark.parametrize(
    "alias, name",
    [
        ("coco_2017_train_stuff_sem_seg", "coco_stuff_train"),
        ("ade20k_full_sem_seg_val", "ade20k_847_val"),
        ("ade20k_sem_seg_val", "ade20k_150_val"),
        ("pascalvoc20_sem_seg_val", "voc_20_val"),
        ("openvocab_ade20k_panoptic_val", "ade20k_150_panoptic_val"),
        ("openvocab_pascal_ctx459_sem_seg_val", "pascal_context_459_val"),
    ],
)
def test_aliases_are_the_same_row_in_both_catalogues(alias: str, name: str) -> None:
    assert dataset(alias) is dataset(name)
    assert alias in DatasetCatalog and name in DatasetCatalog
    metadata = MetadataCatalog.get(alias)
    assert tuple(metadata.stuff_classes) == class_names(name)
    assert metadata.ignore_label == dataset(name).ignore_label


def test_unknown_dataset_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"no dataset 'coco_stuf_val'\. Did you mean coco_stuff_val\?"):
        dataset("coco_stuf_val")
    with pytest.raises(UserError, match=r"no dataset 'xyz'\. Choose one of coco_stuff_train"):
        dataset("xyz")


def test_vocabularies_and_their_seen_flags(tmp_path: Path) -> None:
    assert vocabulary("voc_20_val", "maft").seen == (True,) * 15 + (False,) * 5
    assert vocabulary("ade20k_150_val", "maft").seen is None
    assert vocabulary("voc_20_val", "maft", "none").seen is None
    seen_only = vocabulary("coco_stuff_train_seen", "maft")
    assert len(seen_only) == 156 and all(seen_only.seen or ())
    assert not {"cow", "giraffe", "wall-concrete"} & set(seen_only.names)
    overlapping = vocabulary("voc_20_val", "fcclip", "overlap", ["person", "monitor,screen"])
    assert [name.split(",")[0] for name, seen in zip(overlapping.names, overlapping.seen or ()) if seen] == [
        "person",
        "tvmonitor",
    ]
    with pytest.raises(UserError, match="training vocabulary"):
        vocabulary("voc_20_val", seen="overlap")
    file = tmp_path / "names.txt"
    file.write_text("\n".join(f"class {number}" for number in range(20)))
    assert class_names("voc_20_val", str(file))[3] == "class 3"
    names = list(class_names("voc_20_val"))
    file.write_text("\n".join(name.upper() for name in names))
    assert class_names("voc_20_val", str(file))[1] == "BICYCLE"
    file.write_text("\n".join(sorted(names, reverse=True)))
    with pytest.raises(UserError, match=r"names\.txt calls label 0 of voc_20_val 'tvmonitor', but that is label 19"):
        class_names("voc_20_val", str(file))
    with pytest.raises(UserError, match=r"names\.txt has 20 names but the labels of cityscapes_val have 19"):
        vocabulary("cityscapes_val", str(file))


def test_records_of_a_complete_set(root: Path) -> None:
    for stem in ("000000000009", "000000000007"):
        image_and_label(root, stem)
    records = DatasetCatalog.get("coco_2017_test_stuff_sem_seg")
    assert [record["image_id"] for record in records] == [7, 9]
    assert records[0] == {
        "file_name": str(root / "coco/val2017/000000000007.jpg"),
        "sem_seg_file_name": str(root / "coco/stuffthingmaps_detectron2/val2017/000000000007.png"),
        "image_id": 7,
        "height": 6,
        "width": 8,
    }
    # The root is read when a dataset is used, not when the catalogue is imported.
    assert MetadataCatalog.get("coco_2017_test_stuff_sem_seg").image_root == str(root / "coco/val2017")


def test_missing_steps_are_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no images in .*val2017: download it from https://github.com/nightrome"):
        dataset_records("coco_stuff_val")
    image_and_label(root, "000000000007")
    labels = root / "coco/stuffthingmaps_detectron2/val2017"
    shutil.copy(root / "coco/val2017/000000000007.jpg", root / "coco/val2017/000000000008.jpg")
    with pytest.raises(UserError, match=r"half prepared: 1 of its 2 images.*000000000008.*maft prepare coco_stuff"):
        dataset_records("coco_stuff_val")
    write_labels_report(labels, ["000000000008"], {"000000000007": labels / "000000000007.png"})
    assert len(dataset_records("coco_stuff_val")) == 1
    (root / "coco/val2017/000000000007.jpg").unlink()
    with pytest.raises(UserError, match=r"no image for 1 of its 1 label maps.*000000000007\.png: download"):
        dataset_records("coco_stuff_val")
    shutil.rmtree(labels)
    with pytest.raises(UserError, match=r"no labels in .*run 'maft prepare coco_stuff'"):
        dataset_records("coco_stuff_val")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root / "nowhere"))
    with pytest.raises(UserError, match=r"nowhere does not exist .*DETECTRON2_DATASETS"):
        dataset_records("coco_stuff_val")


@pytest.mark.parametrize(
    "report",
    [
        *({"without_labels": [], "sizes": sizes} for sizes in (None, 5, {"7": None}, {"7": ["6", "8"]})),
        {"without_labels": 3, "sizes": {}},
        [1],
    ],
)
def test_a_damaged_report_counts_as_none(root: Path, report: object) -> None:
    image_and_label(root, "7")
    labels_report_file(root / "coco/stuffthingmaps_detectron2/val2017").write_text(json.dumps(report))
    assert [(record["height"], record["width"]) for record in dataset_records("coco_stuff_val")] == [(6, 8)]


def test_digits_that_only_look_like_numbers_are_names() -> None:
    assert [image_id(f"a/{name}") for name in ("007", "\u00b2", "\u0663", "a")] == [7, "\u00b2", "\u0663", "a"]


def test_a_shared_image_folder_needs_the_report(root: Path) -> None:
    voc = root / "VOCdevkit/VOC2012"
    for folder, suffix in (("JPEGImages", "jpg"), ("annotations_detectron2/val", "png")):
        (voc / folder).mkdir(parents=True)
        for stem in ("a", "b"):
            Image.fromarray(np.zeros((4, 5), np.uint8)).save(voc / folder / f"{stem}.{suffix}")
    with pytest.raises(UserError, match=r"half prepared: 2, and no report,.*maft prepare voc"):
        dataset_records("voc_20_val")
    folder = voc / "annotations_detectron2/val"
    files = {stem: folder / f"{stem}.png" for stem in ("a", "b")}
    write_labels_report(folder, [], {**files, "c": files["a"]})
    with pytest.raises(UserError, match=r"half prepared: 2 of 3 label maps"):
        dataset_records("voc_20_val")
    write_labels_report(folder, [], files)
    assert [(record["image_id"], record["height"], record["width"]) for record in dataset_records("voc_20_val")] == [
        ("a", 4, 5),
        ("b", 4, 5),
    ]


def test_what_is_drawn_of_the_miniature_world_stays(root: Path) -> None:
    ensure_miniature(counts={"train": 3, "val": 2})
    assert len(dataset_records("miniature_train")) == len(dataset_records("miniature_train_seen_2")) == 3
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    ensure_miniature(counts={"train": 3, "val": 2})
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    row = dataset("miniature_train_seen")
    seen = row.classes.seen_indices
    for whole, part in zip(dataset_records("miniature_train"), dataset_records("miniature_train_seen")):
        labels = np.asarray(Image.open(whole["sem_seg_file_name"]))
        renumbered = np.asarray(Image.open(part["sem_seg_file_name"]))
        for index, class_id in enumerate(seen):
            assert ((labels == class_id) == (renumbered == index)).all()
        assert (np.isin(labels, row.classes.unseen) == (renumbered == 255)).all()
    assert len(vocabulary("miniature_train_seen")) == row.num_classes == 18
