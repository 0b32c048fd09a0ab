"""What is found out about the pictures of a dataset before a run starts."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from maft.data import headers
from maft.data.headers import check_headers
from maft.data.reading import read_image
from maft.errors import UserError


@pytest.fixture
def records(tmp_path: Path) -> list[dict]:
    found = []
    for number in range(5):
        files = {
            "file_name": f"{number}.jpg",
            "sem_seg_file_name": f"{number}.png",
            "pan_seg_file_name": f"{number}.gif",
        }
        for name in files.values():
            Image.new("RGB" if name.endswith("jpg") else "L", (8, 6)).save(tmp_path / name)
        found.append({**{key: str(tmp_path / name) for key, name in files.items()}, "height": 6, "width": 8})
    return found


FAULTS = {
    "Image .*2.jpg does not exist": lambda f: (f / "2.jpg").unlink(),
    "Image .*2.jpg cannot be read": lambda f: (f / "2.jpg").write_bytes(b""),
    "Label map .*2.png is 8x7, but its image .*2.jpg is 8x6": lambda f: Image.new("L", (8, 7)).save(f / "2.png"),
    "Panoptic map .*2.gif is 9x6, but its image .*2.jpg is 8x6": lambda f: Image.new("L", (9, 6)).save(f / "2.gif"),
    "Label map .*2.png is 8x6, but its image .*2.jpg is 5x5": lambda f: Image.new("L", (5, 5)).save(f / "2.jpg"),
}


@pytest.mark.parametrize("complaint", FAULTS)
def test_faults_are_counted_and_named(tmp_path, records, complaint):
    FAULTS[complaint](tmp_path)
    with pytest.raises(UserError, match=rf"^1 of 5 images of some cannot be used: {complaint}.*maft check some"):
        check_headers("some", records)


def test_an_annotation_of_another_size_and_many_faults(records):
    for record in records:
        record["height"] = 7
    with pytest.raises(UserError, match="5 of 5 .*: Image .*0.jpg is 8x6, but its dataset says 8x7.*2.jpg") as error:
        check_headers("some", records)
    assert "3.jpg" not in str(error.value) and str(error.value).count(". ") == 0


def test_a_picture_larger_than_pillow_reads_is_found_by_its_header(tmp_path, records, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UserError, match=r"0\.jpg cannot be read \(Image size \(48 pixels\) exceeds limit of 40 pixels"):
        check_headers("some", records)


def test_a_set_in_order_is_asked_for_dates_alone_until_something_changes(tmp_path, records, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    check_headers("mine", records)
    assert "Checked the headers of the 5 images of mine" in caplog.text
    opened = []
    monkeypatch.setattr(headers, "_problem", lambda record: opened.append(record) or "")
    check_headers("mine", records)
    assert not opened
    os.utime(tmp_path / "3.png", ns=(1, 1))
    check_headers("mine", records)
    assert len(opened) == 5
    check_headers("mine", [{**record, "height": 9} for record in records])
    assert len(opened) == 10


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, records, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    check_headers("some", records)
    assert "The next run will check some again" in caplog.text


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_photographs_stand_upright(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / f"a.{suffix}", exif=exif)
    Image.new("L", (6, 8)).save(tmp_path / "labels.png")
    assert read_image(tmp_path / f"a.{suffix}").shape == (8, 6, 3)
    record = {"file_name": str(tmp_path / f"a.{suffix}"), "sem_seg_file_name": str(tmp_path / "labels.png")}
    check_headers(f"upright {suffix}", [{**record, "height": 8, "width": 6}])
    with pytest.raises(UserError, match="but its dataset says 8x6"):
        check_headers(f"lying {suffix}", [{**record, "height": 6, "width": 8}])


def test_pixels_are_not_decoded(tmp_path):
    Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: content.index(b"IDAT") + 4])
    check_headers("cut", [{"file_name": str(tmp_path / "a.png"), "height": 300, "width": 400}])
    with pytest.raises((OSError, SyntaxError)), Image.open(tmp_path / "a.png") as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        image.load()
