"""tools/check_data.py finds every planted fault by its name."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maft.data.catalog import dataset
from maft.data.checking import check_dataset
from maft.data.miniature import ensure_miniature
from maft.data.records import load_records
from maft.errors import UserError

TOOL = Path(__file__).parents[2] / "tools" / "check_data.py"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    (folder / "classes.txt").write_text("cat\ndog\ngrass\n")
    values = np.resize(np.array([0, 1, 1, 255], np.uint8), (20, 30))
    for number in range(14):
        Image.fromarray(np.random.randint(0, 255, (20, 30, 3), dtype=np.uint8)).save(folder / f"images/{number}.jpg")
        Image.fromarray(values).save(folder / f"masks/{number}.png")
    return folder


@pytest.fixture
def check_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["check_data.py", "--workers", "1", *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(TOOL), run_name="__main__")
        printed = capsys.readouterr()
        return stop.value.code, printed.out + printed.err

    return call


def mask(folder: Path, number: int, values: list, dtype: type = np.uint8) -> None:
    Image.fromarray(np.resize(np.array(values, dtype), (20, 30))).save(folder / f"masks/{number}.png")


def picture(folder: Path, number: int, size: tuple[int, int]) -> None:
    Image.new("L", size).save(folder / f"images/{number}.jpg")
    Image.new("L", size).save(folder / f"masks/{number}.png")


FAULTS = {
    "image without label": lambda f: (f / "masks/0.png").unlink(),
    "label without image": lambda f: (f / "images/1.jpg").unlink(),
    "unreadable image": lambda f: (f / "images/2.jpg").write_bytes((f / "images/2.jpg").read_bytes()[:200]),
    "unreadable label": lambda f: (f / "masks/3.png").write_bytes((f / "masks/3.png").read_bytes()[:50]),
    "size mismatch": lambda f: Image.new("RGB", (30, 21)).save(f / "images/4.jpg"),
    "unknown id": lambda f: mask(f, 5, [0, 3]),
    "colour label": lambda f: Image.new("RGB", (30, 20)).save(f / "masks/6.png"),
    "binary mask": lambda f: mask(f, 7, [0, 255]),
    "no labelled pixel": lambda f: mask(f, 8, [255]),
    "mixed bit depth": lambda f: mask(f, 9, [0, 1], np.uint16),
    "stray file": lambda f: (f / "masks/notes.txt").write_text("x"),
    "thin image": lambda f: picture(f, 12, (1300, 20)),
    "giant image": lambda f: picture(f, 13, (8000, 6300)),
    "same stem twice": lambda f: Image.new("RGB", (30, 20)).save(f / "images/11.png"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_alone(own: Path, kind: str) -> None:
    assert check_dataset(f"folder:{own}").problems == []
    FAULTS[kind](own)
    assert [problem.kind for problem in check_dataset(f"folder:{own}").problems] in ([kind], [kind, kind])


def test_all_faults_at_once_by_name(own: Path, check_data, tmp_path: Path) -> None:
    for plant in FAULTS.values():
        plant(own)
    sheet = tmp_path / "sheet.png"
    status, printed = check_data(f"folder:{own}", "--sheet", str(sheet))
    assert status == 1
    assert set(re.findall(r"^([A-Z ]+): 1$", printed, re.MULTILINE)) == {kind.upper() for kind in FAULTS}
    for file in ("0.jpg", "1.png", "2.jpg", "3.png", "4.jpg", "5.png", "6.png", "7.png", "8.png", "9.png", "notes.txt"):
        assert f"/{file}" in printed
    assert f"{len(FAULTS)} problems" in printed
    assert "error" not in printed and sheet.is_file()


def test_histogram_and_ignored_share(own: Path) -> None:
    report = check_dataset(f"folder:{own}")
    assert (report.images, report.labels) == (14, 14)
    assert report.pixels.tolist() == [14 * 150, 14 * 300, 0] and report.images_with.tolist() == [14, 14, 0]
    assert report.ignored == pytest.approx(0.25)
    assert report.sizes == ((20, 30), (20, 30))


def test_a_good_set_prints_a_table_and_a_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check_data: Callable[..., tuple[int, str]]
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ensure_miniature(counts={"train": 2, "val": 5})
    status, printed = check_data("miniature_val", "--pictures", "4")
    assert status == 0 and "images: 5" in printed and "nothing is wrong" in printed
    assert "ignored pixels: 0.00%" in printed
    sheet = Image.open(tmp_path / "check_miniature_val.png")
    assert min(sheet.size) > 300
    status, printed = check_data("miniature_val", "--pictures", "0", "--workers", "0")
    assert status == 1 and printed.startswith("error: --workers 0")


def test_mistakes_end_without_a_traceback(check_data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name, message in (("coco_stuf_val", "Did you mean"), ("voc_20_val", "no images in")):
        status, printed = check_data(name)
        assert status == 1 and printed.startswith("error: ") and message in printed


def test_panoptic_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    coco = tmp_path / "coco"
    for folder in ("val2017", "panoptic_val2017", "panoptic_semseg_val2017", "annotations"):
        (coco / folder).mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(coco / "val2017/000000000001.jpg")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(coco / "panoptic_semseg_val2017/000000000001.png")
    Image.fromarray(np.full((4, 4, 3), (5, 0, 0), np.uint8)).save(coco / "panoptic_val2017/000000000001.png")
    table = {
        "images": [{"id": 1, "file_name": "000000000001.jpg", "height": 4, "width": 4}],
        "categories": [{"id": id_} for id_ in dataset("coco_panoptic_val").classes.category_ids],
        "annotations": [
            {"image_id": 1, "file_name": "000000000001.png", "segments_info": [{"id": 5, "category_id": 1}]}
        ],
    }
    file = coco / "annotations/panoptic_val2017.json"
    file.write_text(json.dumps(table))
    assert check_dataset("coco_panoptic_val").problems == []
    table["annotations"][0]["segments_info"][0]["category_id"] = 2
    file.write_text(json.dumps(table))
    (problem,) = check_dataset("coco_panoptic_val").problems
    assert problem.kind == "panoptic annotation" and "'bicycle' (1) has label 0 ('person')" in problem.text
    with pytest.raises(UserError, match="number the classes otherwise than its panoptic annotation: 'bicycle'"):
        load_records(["coco_panoptic_val"])
    table["annotations"][0]["segments_info"][0]["category_id"] = 1
    # A segment may be covered by others, as in ADE20K, but not all of them, and none may be unknown.
    table["annotations"][0]["segments_info"].append({"id": 6, "category_id": 1})
    file.write_text(json.dumps(table))
    assert check_dataset("coco_panoptic_val").problems == []
    for colour, text in (((7, 0, 0), "its JSON does not list segment 7"), ((0, 0, 0), "it shows no segment")):
        Image.fromarray(np.full((4, 4, 3), colour, np.uint8)).save(coco / "panoptic_val2017/000000000001.png")
        (problem,) = check_dataset("coco_panoptic_val").problems
        assert problem.kind == "panoptic segments" and text in problem.text
    table["categories"].pop()
    file.write_text(json.dumps(table))
    (problem,) = check_dataset("coco_panoptic_val").problems
    assert problem.kind == "panoptic annotation" and "id 200" in problem.text


def test_the_sheet_replaces_no_input_and_is_a_picture(own: Path, check_data, tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(own / "masks/0.png")
    before = {path: path.read_bytes() for path in own.rglob("*.*")}
    for sheet in (own / "images/0.jpg", own / "masks/../masks/1.png", tmp_path / "link.png"):
        status, printed = check_data(f"folder:{own}", "--sheet", str(sheet))
        assert status == 1 and re.search(r"^error: .* would replace the input .*: choose another --sheet", printed)
    for sheet in ("out", "out.txt"):
        status, printed = check_data(f"folder:{own}", "--sheet", str(tmp_path / sheet))
        assert status == 1 and re.search(rf"^error: --sheet .*{sheet} does not end in \.jpg", printed)
    assert {path: path.read_bytes() for path in own.rglob("*.*")} == before
    for _ in range(2):
        assert check_data(f"folder:{own}", "--sheet", str(tmp_path / "sheet.png"))[0] == 0


def test_names_that_are_no_text_are_printed(own: Path, tmp_path: Path) -> None:
    (own / os.fsdecode(b"images/\xff.jpg")).write_bytes(b"no picture")
    Image.new("L", (30, 20)).save(own / os.fsdecode(b"masks/\xff.png"))
    tool = subprocess.run(
        [sys.executable, str(TOOL), f"folder:{own}", "--workers", "1", "--sheet", str(tmp_path / "sheet.png")],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"}, capture_output=True, text=True,
    )  # fmt: skip
    assert tool.returncode == 1 and "UNREADABLE IMAGE: 1" in tool.stdout and r"\udcff.jpg" in tool.stdout, tool.stderr


def test_names_that_clip_reads_alike_are_one_mistake(own: Path, check_data) -> None:
    (own / "classes.txt").write_text("cat\ndog\n Cat \n")
    status, printed = check_data(f"folder:{own}")
    assert status == 1 and re.search(r"^error: Class list .*classes\.txt: .*cat", printed, re.IGNORECASE)
