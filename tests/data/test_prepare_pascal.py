"""prepare_voc.py and prepare_pascal_context.py on miniatures of the original layout."""

import json
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from maft.data.catalog import class_names
from maft.data.preparation.matlab import read_matrix
from maft.data.preparation.pascal import read_label_map
from maft.data.records import dataset_records
from maft.errors import UserError

VOC = "VOCdevkit/VOC2012"
CONTEXT = "VOCdevkit/VOC2010"


@pytest.fixture
def voc(root, write_map):
    """Two training and two validation images with VOC's palette PNGs; 0 background, 255 border, 16 potted plant."""
    maps = {"t1": [[0, 1, 16, 255]], "t2": [[16, 17, 0, 0]], "v1": [[0, 20, 255, 1]], "v2": [[15, 15, 0, 5]]}
    for stem, values in maps.items():
        write_map(f"{VOC}/JPEGImages/{stem}.jpg", np.zeros((1, 4, 3), np.uint8))
        path = root / VOC / "SegmentationClass" / f"{stem}.png"
        path.parent.mkdir(exist_ok=True)
        image = Image.fromarray(np.array(values, np.uint8)).convert("P")
        image.putpalette([(7 * k) % 256 for k in range(768)])
        image.putdata(values[0])
        image.save(path)
    lists = root / VOC / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("t1\nt2\n")
    (lists / "val.txt").write_text("v1\nv2\n")
    return root


def test_voc_ids_and_counts(voc, prepare, read_map) -> None:
    printed = prepare("voc")
    out = f"{VOC}/annotations_detectron2"
    assert read_map(f"{out}/train/t1.png").tolist() == [[255, 0, 15, 255]]
    assert read_map(f"{out}/train_seen/t1.png").tolist() == [[255, 0, 255, 255]]
    assert read_map(f"{out}/val/v1.png").tolist() == [[255, 19, 255, 0]]
    assert read_map(f"{out}_bg/val/v1.png").tolist() == [[0, 20, 255, 1]]
    assert [record["image_id"] for record in dataset_records("voc_20_train")] == ["t1", "t2"]
    assert [record["image_id"] for record in dataset_records("voc_20_train_seen")] == ["t1"]
    assert len(dataset_records("pascalvoc20_sem_seg_val")) == len(dataset_records("voc_21_val")) == 2
    assert "train: 2 images of train.txt, labels of SegmentationClass\nWARNING: published zero-shot numbers" in printed
    assert "voc_20_val label maps: 2 (PUBLISHED: 1449)" in printed


def test_voc_augmented_training_labels(voc, prepare, read_map, write_map) -> None:
    write_map(f"{VOC}/SegmentationClassAug/v9.png", np.array([[3, 0]], np.uint8))
    message = prepare("voc", status=1)
    assert "trainaug.txt" in message and "SegmentationClassAug" in message
    write_map(f"{VOC}/JPEGImages/v9.jpg", np.zeros((1, 2, 3), np.uint8))
    (voc / VOC / "ImageSets/Segmentation/trainaug.txt").write_text("/JPEGImages/v9.jpg /SegmentationClassAug/v9.png\n")
    for stem, values in (("v1", [[20, 20]]), ("v2", [[255, 0]])):
        write_map(f"{VOC}/JPEGImages/{stem}.jpg", np.zeros((1, 2, 3), np.uint8))
        write_map(f"{VOC}/SegmentationClassAug/{stem}.png", np.array(values, np.uint8))
    printed = prepare("voc")
    assert "train: 1 images of trainaug.txt, labels of SegmentationClassAug\n" in printed and "WARNING" not in printed
    assert "val: 2 images of val.txt, labels of SegmentationClassAug" in printed
    assert read_map(f"{VOC}/annotations_detectron2/train/v9.png").tolist() == [[2, 255]]
    # The second validation image has nothing but background, and is no image of PAS-20.
    assert read_map(f"{VOC}/annotations_detectron2/val/v1.png").tolist() == [[19, 19]]
    assert [record["image_id"] for record in dataset_records("voc_20_val")] == ["v1"]
    assert [record["image_id"] for record in dataset_records("voc_21_val")] == ["v1", "v2"]


def test_voc_survives_a_kill(voc, kill_and_finish) -> None:
    assert "voc_20_train_seen label maps: 1, 1 images without" in kill_and_finish("voc")


def test_voc_faults(voc, prepare, write_map) -> None:
    (voc / VOC / "SegmentationClass/v2.png").unlink()
    message = prepare("voc", status=1)
    assert "1 of 2 label maps of val.txt are missing" in message and "robots.ox.ac.uk" in message
    write_map(f"{VOC}/SegmentationClass/v2.png", np.array([[21]], np.uint8))
    assert "v2.png holds the unknown id 21" in prepare("voc", "--splits", "val", status=1)


@pytest.fixture
def context(root, write_map):
    """Three images with 459-class .mat files; 2 aeroplane (in PC-59), 1 accordion (not), 459 wool, 0 unlabelled."""
    for stem, values in {"t1": [[0, 2, 459]], "v1": [[2, 1, 0]], "v2": [[458, 397, 9]]}.items():
        write_map(f"{CONTEXT}/JPEGImages/{stem}.jpg", np.zeros((1, 3, 3), np.uint8))
        (root / CONTEXT / "trainval").mkdir(exist_ok=True)
        savemat(root / CONTEXT / "trainval" / f"{stem}.mat", {"LabelMap": np.array(values, np.uint16)})
    lists = root / CONTEXT / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("t1\n")
    (lists / "val.txt").write_text("v1\nv2\n")
    return root


def test_context_ids_and_counts(context, prepare, read_map) -> None:
    printed = prepare("pascal_context")
    assert read_map(f"{CONTEXT}/annotations_pc59/val/v1.png").tolist() == [[0, 255, 255]]
    wide = read_map(f"{CONTEXT}/annotations_pc459/val/v1.tif")
    assert wide.dtype == np.uint16 and wide.tolist() == [[1, 0, 65535]]
    names = class_names("pascal_context_59_val")
    assert [names[k] for k in read_map(f"{CONTEXT}/annotations_pc59/val/v2.png")[0]] == ["wood", "diningtable", "bag"]
    assert [record["image_id"] for record in dataset_records("pascal_context_459_val")] == ["v1", "v2"]
    assert len(dataset_records("pascal_context_59_train")) == 1
    assert "pascal_context_459_val label maps: 2 (PUBLISHED: 5104)" in printed
    assert "val: 2 images of ImageSets/Main/val.txt; this split is VOC's own" in printed


def test_context_official_split_file(context, prepare) -> None:
    images = [{"file_name": f"{stem}.jpg", "phase": phase} for stem, phase in (("t1", "val"), ("v1", "train"))]
    (context / CONTEXT / "trainval_merged.json").write_text(json.dumps({"images": images}))
    assert "val: 1 images of trainval_merged.json; this split is that of the Detail API" in prepare("pascal_context")
    assert [record["image_id"] for record in dataset_records("pascal_context_59_val")] == ["t1"]


def test_context_survives_a_kill(context, kill_and_finish) -> None:
    assert "pascal_context_59_train label maps: 1" in kill_and_finish("pascal_context")


def test_context_faults(context, prepare) -> None:
    (context / CONTEXT / "trainval/v2.mat").write_bytes(b"not matlab")
    assert "v2.mat cannot be read" in prepare("pascal_context", status=1)
    savemat(context / CONTEXT / "trainval/v2.mat", {"Other": np.zeros(3)})
    assert "v2.mat has no LabelMap" in prepare("pascal_context", status=1)
    savemat(context / CONTEXT / "trainval/v2.mat", {"LabelMap": np.array([[460]])})
    assert "v2.mat holds the unknown id 460" in prepare("pascal_context", status=1)
    (context / CONTEXT / "trainval").rename(context / CONTEXT / "labels")
    message = prepare("pascal_context", status=1)
    assert "trainval.tar.gz" in message and "pascal-context" in message


@pytest.mark.parametrize("values", [np.array([[1.5, 2]]), np.zeros((2, 2, 2)), np.zeros((1, 10**6, 1000, 0))])
def test_context_maps_of_another_kind(context, prepare, values) -> None:
    savemat(context / CONTEXT / "trainval/v2.mat", {"LabelMap": values})
    assert "v2.mat cannot be read (its LabelMap" in prepare("pascal_context", "--splits", "val", status=1)


@pytest.mark.parametrize("compressed", [False, True])
def test_matrices_are_read_as_scipy_reads_them(tmp_path, compressed) -> None:
    file = tmp_path / "a.mat"
    for kind in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8", "bool"):
        for shape in ((3, 5), (1, 1), (2, 1), (0, 4), (70, 90)):
            values = np.random.default_rng(0).integers(0, 100, shape).astype(kind)
            savemat(file, {"first": {"a": "b"}, "LabelMap": values, "last": "x"}, do_compression=compressed)
            found = read_matrix(file, "LabelMap", 10**4)
            assert found.shape == shape and (found == loadmat(file)["LabelMap"]).all()
    assert read_matrix(file, "Label", 10**4) is None


@pytest.mark.parametrize("value", ["text", {"a": 1}, np.ones((2, 2)) * 1j, np.array([[1, "a"]], object)])
def test_matrices_of_other_than_numbers(tmp_path, value) -> None:
    savemat(tmp_path / "a.mat", {"LabelMap": value})
    with pytest.raises(UserError, match=r"a\.mat cannot be read \(its LabelMap holds other than real numbers\)"):
        read_label_map(tmp_path / "a.mat")


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_matrices_are_refused_or_read(tmp_path, compressed) -> None:
    file, values = tmp_path / "a.mat", np.arange(12, dtype=np.uint16).reshape(3, 4)
    savemat(file, {"LabelMap": values}, do_compression=compressed)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError):
            read_label_map(file)
    # The kind of the numbers, which SciPy's reader does not check.
    for place in range(126, len(whole)):
        for byte in (0, 9, 0xF2, 0xFF):
            file.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            with suppress(UserError):
                assert read_label_map(file).dtype == np.int32


def test_a_matrix_is_not_unpacked_when_it_says_that_it_is_too_large(tmp_path) -> None:
    savemat(tmp_path / "a.mat", {"LabelMap": np.zeros((100, 100), np.uint8)}, do_compression=True)
    with pytest.raises(ValueError, match=r"its LabelMap has the size \[100, 100\]"):
        read_matrix(tmp_path / "a.mat", "LabelMap", 9999)


@pytest.mark.parametrize("name", ["../../../../v1", "/v1"])
def test_context_names_stay_in_their_folder(context, prepare, name) -> None:
    (context / CONTEXT / "ImageSets/Main/val.txt").write_text(f"v1\n{name}\n")
    message = prepare("pascal_context", "--splits", "val", status=1)
    assert f"val.txt names the file '{name}.mat', which does not lie below" in message


@pytest.mark.parametrize("images", [None, [1], [{"phase": "val"}], [{"phase": "val", "file_name": 3}]])
def test_context_split_files_of_another_kind(context, prepare, images) -> None:
    (context / CONTEXT / "trainval_merged.json").write_text(json.dumps({"images": images}))
    assert "trainval_merged.json is not Pascal Context's list" in prepare("pascal_context", status=1)
