"""The demo writes an overlay, a label map and a record for every image it can read."""

import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maft.errors import UserError

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "demo.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def demo(tool, tiny_configs, tmp_path, monkeypatch):
    def run(*inputs, words=("grass", "sky"), options=()):
        arguments = ["--config-file", tiny_configs / "maft.yaml", "--output", tmp_path / "out", "--input", *inputs]
        monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, [*arguments, *options]), "--class-names", *words])
        return tool.main()

    return run


@pytest.fixture
def images(tmp_path):
    draws = np.random.default_rng(0)
    for name in ("a/one.png", "a/two.jpg", "b/one.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def test_a_folder_and_a_file_of_the_same_name(demo, images, capsys):
    assert demo(images / "a", images / "b/one.png") == 0
    out = images / "out"
    assert sorted(file.name for file in out.glob("*.json")) == ["one.json", "one_2.json", "two.json"]
    assert "3 of 3 images written" in capsys.readouterr().out
    for name in ("one", "one_2", "two"):
        labels = np.asarray(Image.open(out / f"{name}_labels.png"))
        assert labels.shape == (40, 60) and labels.dtype == np.uint8
        record = json.loads((out / f"{name}.json").read_text())
        assert record["class_names"] == ["grass", "sky"]
        for segment in record["segments"]:
            assert segment["area"] == (labels == segment["label"]).sum()
        assert Image.open(out / f"{name}_overlay.png").mode == "RGB"


def test_the_words_of_a_label_set(tool, tiny_configs, images, monkeypatch):
    given = ["--config-file", tiny_configs / "maft.yaml", "--output", images / "out", "--input", images / "b"]
    monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, given), "--label-set", "voc_20"])
    assert tool.main() == 0
    record = json.loads((images / "out/one.json").read_text())
    assert len(record["class_names"]) == 20 and record["class_names"][19] == "tvmonitor"


def test_a_list_on_standard_input(demo, images, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{images / 'a/two.jpg'}\n\n"))
    assert demo("-") == 0
    assert [file.name for file in (images / "out").glob("*.json")] == ["two.json"]


@pytest.mark.parametrize("content", [b"a\0b.png", b"\xff\xfe\x00", None])
def test_standard_input_that_holds_no_list(demo, monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", content and io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    with pytest.raises(UserError, match=r"The list on standard input cannot be read \(|No image in -"):
        demo("-")


def test_images_that_would_share_masks_from_disk_are_refused(demo, images):
    (images / "masks").mkdir()
    Image.new("L", (60, 40)).save(images / "masks/one.png")
    options = ["MODEL.PROPOSER.NAME", "MaskFiles", "MODEL.PROPOSER.MaskFiles.PATH", images / "masks"]
    with pytest.raises(UserError, match="found by file names, and 'one' stands for several"):
        demo(images / "a/one.png", images / "b/one.png", options=["--output", images / "out", *options])


def test_a_broken_image_is_skipped_by_name_and_the_others_are_written(demo, images, capsys):
    (images / "a/broken.png").write_bytes(b"not an image")
    assert demo(images / "a") == 1
    printed = capsys.readouterr()
    assert "2 of 3 images written" in printed.out
    assert "broken.png" in printed.err and printed.err.count("skipped:") == 1


def test_nothing_to_read_and_words_that_repeat(demo, images):
    (images / "empty").mkdir()
    with pytest.raises(UserError, match="No image in"):
        demo(images / "empty")
    with pytest.raises(UserError, match="'sky' occurs twice"):
        demo(images / "a", words=("sky", "sky"))


def test_panoptic_segments_of_own_words(demo, images):
    assert demo(images / "a/one.png", options=["--all-things"]) == 0
    ids = np.asarray(Image.open(images / "out/one_panoptic.png")).astype(int) @ [1, 256, 65536]
    record = json.loads((images / "out/one.json").read_text())
    assert {segment["id"] for segment in record["panoptic"]} == set(np.unique(ids).tolist()) - {0}
    with pytest.raises(UserError, match="The thing 'skye' is none of the class names"):
        demo(images / "a", options=["--things", "skye"])


def test_thin_and_giant_pictures_leave_the_others_alone(demo, images, capsys, monkeypatch):
    Image.new("RGB", (4000, 3)).save(images / "a/thin.png")
    Image.new("RGB", (1, 1)).save(images / "a/point.png")
    Image.new("L", (5000, 5000)).save(images / "a/giant.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**7)
    assert demo(images / "a") == 1
    printed = capsys.readouterr()
    assert "4 of 5 images written" in printed.out
    assert "giant.png cannot be read (Image size (25000000 pixels) exceeds limit" in printed.err
    assert Image.open(images / "out/thin_labels.png").size == (4000, 3)


def test_no_output_replaces_an_input(demo, images):
    Image.new("RGB", (8, 8)).save(images / "a/one_overlay.png")
    (images / "out").symlink_to(images / "a")
    before = (images / "a/one_overlay.png").read_bytes()
    with pytest.raises(UserError, match=r"one_overlay\.png.* would replace the input"):
        demo(images / "a")
    assert (images / "a/one_overlay.png").read_bytes() == before
    assert not list((images / "a").glob("*.json"))


def test_unusable_words_are_refused_before_the_images(demo, images):
    with pytest.raises(UserError, match="tokens"):
        demo(images / "a", words=("sky", "word " * 200))
    (images / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        demo(images / "a", options=["--output", images / "out", "MODEL.VOCABULARY.CACHE_DIR", images / "file"])
    assert not (images / "out").exists()


def test_an_output_that_cannot_be_written_skips_its_picture(demo, images, capsys):
    (images / "out/one_overlay.png").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(images / "a" / ("n" * 250 + ".png"))
    assert demo(images / "a") == 1
    printed = capsys.readouterr()
    assert "1 of 3 images written" in printed.out and (images / "out/two.json").is_file()
    assert "one_overlay.png: it is a folder" in printed.err and "ile name too long" in printed.err


def test_an_output_folder_that_takes_no_files_ends_the_run(demo, images):
    (images / "out").touch()
    with pytest.raises(UserError, match="cannot write to folder"):
        demo(images / "a")
