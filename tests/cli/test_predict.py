"""maft predict writes an overlay, a label map and a record for every image it can read."""

import io
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from maft.cli.predict import main, output_names
from maft.data.reading import read_labels
from maft.errors import UserError
from maft.miniature import materialise


@pytest.fixture
def predict(tiny_configs, tmp_path):
    def run(*inputs, words=("grass", "sky"), options=()):
        arguments = [*inputs, "--config-file", tiny_configs / "maft.yaml", "--output", tmp_path / "out", *options]
        return main([*map(str, arguments), "--words", *words])

    return run


@pytest.fixture
def images(tmp_path):
    draws = np.random.default_rng(0)
    for name in ("a/one.png", "a/two.jpg", "b/one.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def test_a_folder_and_a_file_of_the_same_name(predict, images, capsys):
    assert predict(images / "a", images / "b/one.png") == 0
    out = images / "out"
    assert sorted(file.name for file in out.glob("*.json")) == ["one.json", "one_2.json", "two.json"]
    assert "3 of 3 images written" in capsys.readouterr().out
    for name in ("one", "one_2", "two"):
        labels = read_labels(out / f"{name}_labels.png")
        assert labels.shape == (40, 60)
        record = json.loads((out / f"{name}.json").read_text())
        assert record["class_names"] == ["grass", "sky"]
        for found in record["classes"]:
            assert found["area"] == (labels == found["label"]).sum()
        assert Image.open(out / f"{name}_overlay.png").mode == "RGB"


def test_the_flags_of_before_and_the_words_of_a_label_set(tiny_configs, images):
    given = ["--config-file", tiny_configs / "maft.yaml", "--output", images / "out", "--input", images / "b"]
    assert main([*map(str, given), "--label-set", "voc_20"]) == 0
    record = json.loads((images / "out/one.json").read_text())
    assert len(record["class_names"]) == 20 and record["class_names"][19] == "tvmonitor"
    assert main([*map(str, given), "--class-names", "cat", "dog"]) == 0
    assert json.loads((images / "out/one.json").read_text())["class_names"] == ["cat", "dog"]
    with pytest.raises(UserError, match="There is no label set 'voc'"):
        main([*map(str, given), "--label-set", "voc"])


def test_each_image_is_one_line_with_what_was_found(predict, images, capsys):
    assert predict(images / "a") == 0
    printed = capsys.readouterr()
    first, second, last = printed.out.splitlines()
    assert re.fullmatch(rf"\[1/2\] {images}/a/one.png: ((grass|sky|nothing) \d+%(, )?)+", first)
    assert second.startswith(f"[2/2] {images}/a/two.jpg: ") and last == f"2 of 2 images written to {images}/out"
    # No progress bar into a file.
    assert "\r" not in printed.out + printed.err


def test_overrides_behind_any_list_are_no_words(tiny_configs, images):
    """``--things grass MODEL.DEVICE cpu`` once asked for the thing 'MODEL.DEVICE'."""
    given = [
        str(images / "b/one.png"),
        "--config-file",
        str(tiny_configs / "maft.yaml"),
        "--output",
        str(images / "out"),
    ]
    words = ["--words", "grass", "sky", "MODEL.DEVICE", "cpu"]
    assert main([*given, *words, "--things", "grass", "TEST.AUG.ENABLED", "False"]) == 0
    record = json.loads((images / "out/one.json").read_text())
    assert record["class_names"] == ["grass", "sky"] and record["segments"] is not None
    with pytest.raises(UserError, match="there is no key MODEL.DEVIC"):
        main([*given, "--words", "grass", "sky", "MODEL.DEVIC", "cpu"])


def test_commas_within_the_only_word_are_said_to_make_one_class(predict, images, capsys):
    assert predict(images / "b", words=["coffee table, sofa"]) == 0
    assert "One class of 2 synonyms; for 2 classes write --words 'coffee table' sofa\n" in capsys.readouterr().err
    assert json.loads((images / "out/one.json").read_text())["class_names"] == ["coffee table, sofa"]


def test_formats_and_the_threshold(predict, images):
    assert predict(images / "b", options=["--none-below", "1", "--format", "labels"]) == 0
    assert [file.name for file in (images / "out").iterdir()] == ["one_labels.png"]
    assert (read_labels(images / "out/one_labels.png") == 255).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--none-below", "2"], "--none-below: 2.0 does not lie in 0 to 1"),
        (["--format", "label"], "there is no 'label', choose some of overlay, labels, panoptic, json"),
        (["--format", "panoptic"], "panoptic segments need --things or --all-things"),
        (["--device", "gpu"], "gpu"),
    ],
)
def test_options_that_cannot_be_used(predict, images, options, sentence):
    with pytest.raises(UserError, match=sentence):
        predict(images / "b", options=options)
    assert not (images / "out").exists()


def test_without_an_image_the_order_is_explained(tiny_configs):
    with pytest.raises(UserError, match="name an image, before --words"):
        main(["--config-file", str(tiny_configs / "maft.yaml"), "--words", "cat", "photo.jpg"])


def test_addresses_are_named_after_their_files_and_must_be_public(predict, images, capsys):
    assert output_names(["https://example.org/a/photo.jpg?size=2", "photo.png", "https://example.org"]) == [
        "photo", "photo_2", "image",
    ]  # fmt: skip
    assert predict("https://127.0.0.1/photo.jpg", images / "b") == 1
    printed = capsys.readouterr()
    assert "1 of 2 images written" in printed.out and "skipped: https://127.0.0.1/photo.jpg" in printed.err


def test_a_released_model_by_name(tmp_path):
    materialise(tmp_path / "world", "val", 1)
    (scene,) = (tmp_path / "world/val/images").iterdir()
    out = str(tmp_path / "out")
    assert main([str(scene), "--model", "miniature", "--words", "water", "plum", "zeppelin", "--output", out]) == 0
    record = json.loads((tmp_path / f"out/{scene.stem}.json").read_text())
    assert record["unknown_words"] == ["zeppelin"] and 0 < record["classes"][0]["score"] <= 1


def test_a_list_on_standard_input(predict, images, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{images / 'a/two.jpg'}\n\n"))
    assert predict("-") == 0
    assert [file.name for file in (images / "out").glob("*.json")] == ["two.json"]


@pytest.mark.parametrize("content", [b"a\0b.png", b"\xff\xfe\x00", None])
def test_standard_input_that_holds_no_list(predict, monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", content and io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    with pytest.raises(UserError, match=r"The list on standard input cannot be read \(|No image in -"):
        predict("-")


def test_images_that_would_share_masks_from_disk_are_refused(predict, images):
    (images / "masks").mkdir()
    Image.new("L", (60, 40)).save(images / "masks/one.png")
    options = ["MODEL.PROPOSER.NAME", "MaskFiles", "MODEL.PROPOSER.MaskFiles.PATH", images / "masks"]
    with pytest.raises(UserError, match="found by file names, and 'one' stands for several"):
        predict(images / "a/one.png", images / "b/one.png", options=["--output", images / "out", *options])


def test_a_broken_image_is_skipped_by_name_and_the_others_are_written(predict, images, capsys):
    (images / "a/broken.png").write_bytes(b"not an image")
    assert predict(images / "a") == 1
    printed = capsys.readouterr()
    assert "2 of 3 images written" in printed.out
    assert "broken.png" in printed.err and printed.err.count("skipped:") == 1


def test_nothing_to_read_and_words_that_repeat(predict, images):
    (images / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no picture"):
        predict(images / "empty")
    with pytest.raises(UserError, match="'sky' occurs twice"):
        predict(images / "a", words=("sky", "sky"))


def test_panoptic_segments_of_own_words(predict, images):
    assert predict(images / "a/one.png", options=["--all-things"]) == 0
    ids = np.asarray(Image.open(images / "out/one_panoptic.png")).astype(int) @ [1, 256, 65536]
    record = json.loads((images / "out/one.json").read_text())
    assert {segment["id"] for segment in record["segments"]} == set(np.unique(ids).tolist()) - {0}
    with pytest.raises(UserError, match="The thing 'skye' is none of the class names"):
        predict(images / "a", options=["--things", "skye"])


def test_boxes_and_points_name_their_objects(predict, images, tiny_sam, capsys):
    tiny_sam("sam").save_pretrained(images / "sam")
    on_sam = ["MODEL.PROPOSER.NAME", "SAM", "MODEL.PROPOSER.SAM.PRETRAINED", str(images / "sam")]
    given = ["--box", "2,3,30,20", "--point", "10,11.5", "--box", "0,0,60,40"]
    assert predict(images / "b", words=("grass", "sky", *on_sam), options=given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[1:4]] == ["  2,3,30,20", "  0,0,60,40", "  10,11.5"]
    assert all(re.fullmatch(r"  .*: (grass|sky), score 0\.\d\d, \d+ pixels", line) for line in lines[1:4])
    assert len(json.loads((images / "out/one.json").read_text())["instances"]) == 3


@pytest.mark.parametrize(("options", "sentence"), [
    (("--box", "1,2,3"), "--box: '1,2,3' is not X0,Y0,X1,Y1: give numbers with commas between them, in pixels"),
    (("--point", "a,b"), "--point: 'a,b' is not X,Y"),
    (("--box", "1,2,nan,4"), "--box: '1,2,nan,4' is not X0,Y0,X1,Y1"),
    (("--point", "5,5", "--all-things"), "show one object each: leave --things and --all-things out"),
])  # fmt: skip
def test_boxes_and_points_that_cannot_be_used(predict, images, options, sentence):
    with pytest.raises(UserError, match=sentence):
        predict(images / "b", options=options)


def test_boxes_are_of_one_image_and_of_a_model_that_takes_them(predict, images):
    with pytest.raises(UserError, match="show objects of one image, and there are 2"):
        predict(images / "a", options=("--box", "1,2,3,4"))
    with pytest.raises(UserError, match="FreeSeg, the proposer of this model, takes no boxes and points"):
        predict(images / "b", options=("--box", "1,2,3,4"))


def test_thin_and_giant_pictures_leave_the_others_alone(predict, images, capsys, monkeypatch):
    Image.new("RGB", (4000, 3)).save(images / "a/thin.png")
    Image.new("RGB", (1, 1)).save(images / "a/point.png")
    Image.new("L", (5000, 5000)).save(images / "a/giant.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**7)
    assert predict(images / "a") == 1
    printed = capsys.readouterr()
    assert "4 of 5 images written" in printed.out
    assert "giant.png: The picture has more than 64 million pixels" in printed.err
    assert Image.open(images / "out/thin_labels.png").size == (4000, 3)


def test_no_output_replaces_an_input(predict, images):
    Image.new("RGB", (8, 8)).save(images / "a/one_overlay.png")
    (images / "out").symlink_to(images / "a")
    before = (images / "a/one_overlay.png").read_bytes()
    with pytest.raises(UserError, match=r"one_overlay\.png.* would replace the input"):
        predict(images / "a")
    assert (images / "a/one_overlay.png").read_bytes() == before
    assert not list((images / "a").glob("*.json"))


def test_unusable_words_are_refused_before_the_images(predict, images):
    with pytest.raises(UserError, match="tokens"):
        predict(images / "a", words=("sky", "word " * 200))
    (images / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        predict(images / "a", options=["--output", images / "out", "MODEL.VOCABULARY.CACHE_DIR", images / "file"])
    assert not (images / "out").exists()


def test_an_output_that_cannot_be_written_skips_its_picture(predict, images, capsys):
    (images / "out/one_overlay.png").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(images / "a" / ("n" * 250 + ".png"))
    assert predict(images / "a") == 1
    printed = capsys.readouterr()
    assert "1 of 3 images written" in printed.out and (images / "out/two.json").is_file()
    assert "one_overlay.png: it is a folder" in printed.err and "ile name too long" in printed.err


def test_an_output_folder_that_takes_no_files_ends_the_run(predict, images):
    (images / "out").touch()
    with pytest.raises(UserError, match="cannot write to folder"):
        predict(images / "a")
