"""Your own data: folder:/path with images/, masks/ and classes.txt."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from maft.data.catalog import dataset, vocabulary
from maft.data.reading import read_labels
from maft.data.records import dataset_records, register
from maft.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    (tmp_path / "classes.txt").write_text("cat, kitty\ndog\ngrass\n")
    for number in range(3):
        Image.fromarray(np.full((6, 8, 3), 50 * number, np.uint8)).save(tmp_path / "images" / f"{number}.jpg")
        save(tmp_path, number, [0, 1, 2, 255])
    return tmp_path


def save(folder: Path, number: int, values: list[int], dtype: type = np.uint8) -> None:
    Image.fromarray(np.resize(np.array(values, dtype), (6, 8))).save(folder / "masks" / f"{number}.png")


def test_a_folder_is_a_dataset(folder: Path) -> None:
    name = f"folder:{folder}"
    row = dataset(name)
    assert row.num_classes == 3 and row.ignore_label == 255
    assert vocabulary(name, "ovseg").names == ("cat, kitty", "dog", "grass")
    register(name)
    records = DatasetCatalog.get(name)
    assert [record["image_id"] for record in records] == ["0", "1", "2"]
    assert (records[0]["height"], records[0]["width"]) == (6, 8)
    assert MetadataCatalog.get(name).stuff_classes == ["cat, kitty", "dog", "grass"]


def test_palette_masks_give_their_indices(folder: Path) -> None:
    values = np.resize(np.array([0, 1, 2], np.uint8), (6, 8))
    image = Image.fromarray(values).convert("P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0] + [0] * 759)
    image.putdata(values.ravel().tolist())
    image.save(folder / "masks" / "1.png")
    path = dataset_records(f"folder:{folder}")[1]["sem_seg_file_name"]
    assert (read_labels(path) == values).all()


def test_sixteen_bit_masks_ignore_65535(folder: Path) -> None:
    for number in range(3):
        save(folder, number, [0, 2, 65535], np.uint16)
    assert dataset(f"folder:{folder}").ignore_label == 65535
    path = dataset_records(f"folder:{folder}")[0]["sem_seg_file_name"]
    assert set(np.unique(read_labels(path))) == {0, 2, 65535}
    save(folder, 2, [0, 255], np.uint16)
    with pytest.raises(UserError, match=r"2\.png holds only 0 and 255"):
        dataset_records(f"folder:{folder}")


def test_another_ignored_value(folder: Path) -> None:
    save(folder, 2, [1, 99])
    with pytest.raises(UserError, match=r"2\.png holds the id 99 but there are 3 classes"):
        dataset_records(f"folder:{folder}")
    for number in range(3):
        save(folder, number, [1, 99])
    (folder / "ignore.txt").write_text("99\n")
    assert MetadataCatalog.get(f"folder:{folder}") and len(dataset_records(f"folder:{folder}")) == 3
    assert MetadataCatalog.get(f"folder:{folder}").ignore_label == 99
    (folder / "ignore.txt").write_text("none\n")
    with pytest.raises(UserError, match="one number from 0 to 65535"):
        dataset(f"folder:{folder}")


@pytest.mark.parametrize("content", [b"\xff\xfe9", "\N{SUPERSCRIPT TWO}".encode(), b"9" * 5000, None])
def test_an_ignore_file_without_a_number_is_one_sentence(folder: Path, content: bytes | None) -> None:
    file = folder / "ignore.txt"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"ignore\.txt (should hold one number|cannot be read)") as raised:
        dataset(f"folder:{folder}")
    assert len(str(raised.value)) < len(str(folder)) + 400


def test_a_class_cannot_be_the_ignored_value_by_accident(folder: Path) -> None:
    (folder / "classes.txt").write_text("\n".join(f"class {number}" for number in range(256)))
    with pytest.raises(UserError, match="256 classes, so that 255 is a class and the ignored value"):
        dataset(f"folder:{folder}")
    for number in range(3):
        save(folder, number, [0, 255], np.uint16)
    assert len(dataset_records(f"folder:{folder}")) == 3


def test_an_unlabelled_class_zero(folder: Path) -> None:
    (folder / "ignore.txt").write_text("0")
    for number in range(3):
        save(folder, number, [0, 1, 2])
    assert dataset(f"folder:{folder}").ignore_label == 0 and len(dataset_records(f"folder:{folder}")) == 3


def test_binary_masks_are_refused_unless_explained(folder: Path) -> None:
    save(folder, 1, [0, 255])
    with pytest.raises(UserError, match=r"1\.png holds only 0 and 255, like a binary mask"):
        dataset_records(f"folder:{folder}")
    (folder / "ignore.txt").write_text("255")
    assert len(dataset_records(f"folder:{folder}")) == 3


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "masks" / "1.png").unlink(), r"1 of 3 images .* no mask, the first is .*1\.jpg"),
        (lambda f: (f / "images" / "1.jpg").unlink(), r"1 of 3 masks .* no image, the first is .*1\.png"),
        (lambda f: (f / "masks" / "1.png").write_bytes(b"no picture"), r"1\.png cannot be read"),
        (lambda f: Image.new("RGB", (8, 6)).save(f / "masks" / "1.png"), r"1\.png is a colour image \(RGB\)"),
        (lambda f: (f / "masks" / "notes.txt").write_text(""), r"notes\.txt is none of \.png"),
        (lambda f: (f / "images" / "1.png").write_bytes(b""), r"1\.jpg and .*1\.png have the same stem"),
        (lambda f: (f / "classes.txt").unlink(), r"classes\.txt does not exist"),
        (lambda f: (f / "masks").rename(f / "labels"), r"masks does not exist: .* needs images/, masks/ and classes"),
    ],
)
def test_faults_are_named(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message):
        dataset_records(f"folder:{folder}")


def test_relative_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    name = f"folder:{folder.name}"
    assert dataset_records(name)[0]["file_name"] == str(folder / "images/0.jpg")
    assert MetadataCatalog.get(name).image_root == str(folder / "images")


@pytest.mark.parametrize("path", ["~nosuch/x", "a\0b", "x" * 5000])
def test_paths_that_no_folder_has(path: str) -> None:
    with pytest.raises(UserError, match="does not exist: folder:"):
        dataset(f"folder:{path}")


def test_a_mask_changed_later_is_checked_again(folder: Path) -> None:
    assert len(dataset_records(f"folder:{folder}")) == 3
    save(folder, 2, [0, 77])
    with pytest.raises(UserError, match="id 77"):
        dataset_records(f"folder:{folder}")
