"""prepare_ade150.py and prepare_ade847.py on miniatures of the original layout."""

import json
import pickle

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maft.checkpoint.io import load_plain_pickle
from maft.data.catalog import dataset
from maft.data.records import dataset_records
from maft.errors import UserError

ADE = "ADEChallengeData2016"
FULL = "ADE20K_2021_17_01"


@pytest.fixture
def ade(root, write_map):
    """Two images a split: wall 1 and building 2 (stuff), bed 8 and windowpane 9 (things 1 and 2); two beds."""
    semantic = np.array([[1, 1, 8, 8], [0, 2, 8, 8]], np.uint8)
    instance = np.zeros((2, 4, 3), np.uint8)
    instance[:, 2] = (1, 1, 0)
    instance[:, 3] = (1, 2, 0)
    # The window lies on wall and building: instances are on top of stuff.
    instance[1, 1] = instance[0, 1] = (2, 3, 0)
    for folder, stems in (("training", ("t1", "t2")), ("validation", ("v1", "v2"))):
        for stem in stems:
            write_map(f"{ADE}/images/{folder}/ADE_{stem}.jpg", np.zeros((2, 4, 3), np.uint8))
            write_map(f"{ADE}/annotations/{folder}/ADE_{stem}.png", semantic)
            write_map(f"{ADE}/annotations_instance/{folder}/ADE_{stem}.png", instance)
    return root


def test_ade150_semantic_panoptic_instance(ade, prepare, read_map) -> None:
    printed = prepare("ade150")
    assert read_map(f"{ADE}/annotations_detectron2/validation/ADE_v1.png").tolist() == [[0, 0, 7, 7], [255, 1, 7, 7]]
    record = dataset_records("openvocab_ade20k_panoptic_val")[0]
    ids = read_map(record["pan_seg_file_name"])[..., 0].astype(int)
    by_id = {segment["id"]: segment for segment in record["segments_info"]}
    assert [[by_id[k]["category_id"] if k else None for k in row] for row in ids] == [[0, 8, 7, 7], [None, 8, 7, 7]]
    assert ids[0, 2] != ids[0, 3], "two beds are two segments"
    # The wall was measured before a window was laid over one of its pixels; the building is covered, and listed.
    areas = [(segment["category_id"], segment["area"]) for segment in by_id.values()]
    assert areas == [(0, 2), (1, 1), (7, 2), (7, 2), (8, 2)]
    assert [(ids == id_).sum() for id_ in by_id] == [1, 0, 2, 2, 2]
    assert {segment["category_id"] for segment in by_id.values() if segment["isthing"]} == {7, 8}
    table = json.loads((ade / ADE / "ade20k_instance_val.json").read_text())
    first = [annotation for annotation in table["annotations"] if annotation["image_id"] == "ADE_v1"]
    assert sorted(annotation["category_id"] for annotation in first) == [7, 7, 8]
    assert len({annotation["id"] for annotation in table["annotations"]}) == 6 and len(table["categories"]) == 100
    window = next(annotation for annotation in first if annotation["category_id"] == 8)
    assert coco_mask.decode(window["segmentation"]).tolist() == [[0, 1, 0, 0], [0, 1, 0, 0]]
    assert window["bbox"] == [1, 0, 1, 2] and window["area"] == 2
    assert "ade20k_150_panoptic_val instances: 6" in printed
    assert "ade20k_150_val label maps: 2 (PUBLISHED: 2000)" in printed


def test_ade150_without_instance_maps(ade, prepare) -> None:
    (ade / ADE / "annotations_instance").rename(ade / "elsewhere")
    assert "semantic labels only" in prepare("ade150", "--splits", "val")
    assert len(dataset_records("ade20k_sem_seg_val")) == 2
    with pytest.raises(UserError, match=r"no panoptic annotation .*run 'maft prepare ade150'"):
        dataset_records("ade20k_150_panoptic_val")


def test_ade150_survives_a_kill(ade, kill_and_finish) -> None:
    assert "ade20k_150_panoptic_train segments: 10" in kill_and_finish("ade150")


def test_ade150_faults(ade, prepare, write_map) -> None:
    write_map(f"{ADE}/annotations/validation/ADE_v2.png", np.full((2, 4), 151, np.uint8))
    assert "ADE_v2.png holds the unknown id 151" in prepare("ade150", "--splits", "val", status=1)
    write_map(f"{ADE}/annotations/validation/ADE_v2.png", np.ones((3, 4), np.uint8))
    assert "ADE_v2.png does not fit its semantic map" in prepare("ade150", "--splits", "val", status=1)
    (ade / ADE / "annotations/validation/ADE_v2.png").unlink()
    message = prepare("ade150", "--splits", "val", status=1)
    assert "1 of 2 label maps are missing" in message and "sceneparsing.csail.mit.edu" in message


@pytest.fixture
def full(root, write_map):
    """The 2021 release: nested folders, class = (R / 10) * 256 + G, a pickled index; one image above 512 pixels."""
    wall, sky = 2978, 2420
    folders, files = [], []
    for name, folder, shape in (
        ("ADE_train_00000001", "training/urban/street", (6, 8)),
        ("ADE_train_00000002", "training/home/kitchen", (6, 8)),
        ("ADE_val_00000001", "validation/home/kitchen", (600, 1025)),
    ):
        place = f"{FULL}/images/ADE/{folder}"
        seg = np.zeros((*shape, 3), np.uint8)
        seg[: shape[0] // 2] = (wall // 256 * 10, wall % 256, 77)
        seg[:, : shape[1] // 4] = (sky // 256 * 10, sky % 256, 1)
        seg[-1, -1] = 0
        write_map(f"{place}/{name}.jpg", np.full((*shape, 3), 90, np.uint8))
        write_map(f"{place}/{name}_seg.png", seg)
        folders.append(place)
        files.append(f"{name}.jpg")
    index = {
        "filename": files,
        "folder": folders,
        "objectnames": ["wall"],
        "objectPresence": np.zeros((3, 3), np.uint8),
        "scene": ["/street", "/kitchen", "/kitchen"],
        "typeset": np.array([1, 1, 2]),
    }
    (root / FULL / "index_ade20k.pkl").write_bytes(pickle.dumps(index))
    return root


def test_ade847_tree_ids_and_sizes(full, prepare, read_map) -> None:
    printed = prepare("ade847")
    labels = read_map(f"{FULL}/annotations_detectron2/validation/ADE_val_00000001.tif")
    assert labels.dtype == np.uint16 and labels.shape == (512, 875)
    assert labels[0, 0] == 2 and labels[0, -1] == 0 and labels[-1, -1] == 65535
    assert read_map(f"{FULL}/images_detectron2/validation/ADE_val_00000001.jpg").shape == (512, 875, 3)
    assert read_map(f"{FULL}/images_detectron2/training/ADE_train_00000001.jpg").shape == (6, 8, 3)
    record = dataset_records("ade20k_full_sem_seg_val")[0]
    assert (record["height"], record["width"]) == (512, 875)
    assert len(dataset_records("ade20k_847_train")) == len(dataset_records("ade20k_847_train_seen")) == 2
    assert "ade20k_847_train images: 2 (PUBLISHED: 25574)" in printed
    row = dataset("ade20k_847_val")
    assert [row.classes.names("maft")[k] for k in (0, 2)] == ["wall", "sky"]


def test_ade847_survives_a_kill(full, kill_and_finish) -> None:
    assert "ade20k_847_val label maps: 1" in kill_and_finish("ade847")


def test_ade847_says_what_is_missing(full, prepare) -> None:
    next(full.rglob("ADE_train_00000002_seg.png")).unlink()
    message = prepare("ade847", status=1)
    assert "1 of 2 segmentations (_seg.png) are missing" in message and "ADE20K" in message
    (full / FULL / "index_ade20k.pkl").unlink()
    assert "index_ade20k.pkl (ADE20K_2021_17_01.zip)" in prepare("ade847", status=1)


def test_the_index_cannot_run_anything(full, prepare, tmp_path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (marker.write_text, ("x",))

    for content in (Evil(), {"filename": [Evil()], "folder": ["a"]}, np.array([Evil()], object)):
        (full / FULL / "index_ade20k.pkl").write_bytes(pickle.dumps(content))
        message = prepare("ade847", status=1)
        assert "is not plain data (it refers to" in message
    assert not marker.exists()
    (full / FULL / "index_ade20k.pkl").write_bytes(b"\x80\x04half")
    assert "is not plain data" in prepare("ade847", status=1)


@pytest.mark.parametrize(
    ("folder", "name", "complaint"),
    [
        (["../outside"], ["ADE_val_1.jpg"], "names the file '../outside/ADE_val_1.jpg', which does not lie below"),
        (["a"], ["../../ADE_val_1.jpg"], "which does not lie below"),
        (["/etc"], ["passwd"], "names the file '/etc/passwd'"),
        (["a", "b"], ["ADE_val_1.jpg"], "does not list one folder a file name"),
        (3, ["ADE_val_1.jpg"], "does not list one folder a file name"),
        (["a", "b"], ["ADE_val_1.jpg", "ADE_val_1.jpg"], "lists ADE_val_1 more than once"),
    ],
)
def test_the_index_names_files_below_the_root_once(full, prepare, folder, name, complaint) -> None:
    (full / FULL / "index_ade20k.pkl").write_bytes(pickle.dumps({"folder": folder, "filename": name}))
    assert complaint in prepare("ade847", status=1)


def test_plain_pickles_of_old_numpy_are_read(tmp_path) -> None:
    file = tmp_path / "index.pkl"
    value = pickle.dumps({"a": np.arange(3), "b": np.float64(2)}, protocol=2)
    file.write_bytes(value.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    loaded = load_plain_pickle(file)
    assert loaded["a"].tolist() == [0, 1, 2] and loaded["b"] == 2
