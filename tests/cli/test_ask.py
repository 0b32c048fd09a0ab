"""What maft ask prints and writes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from maft.cli.ask import main
from maft.data.photos import PhotoMapper
from maft.errors import UserError
from maft.index.making import Collection, make_index
from maft.miniature.dataset import materialise
from maft.predictor import Predictor


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder with an index of four drawn scenes, which lie in it, and its model."""
    folder = tmp_path_factory.mktemp("ask")
    files = sorted(map(str, materialise(folder, "val", 4).rglob("images/*.png")))
    predictor = Predictor.from_pretrained("miniature")
    records = [{"file_name": file} for file in files]
    make_index(predictor.cfg, predictor.model, folder / "index", Collection(records, PhotoMapper(predictor.cfg)))
    return folder, files, predictor


@pytest.fixture
def index(world):
    return str(world[0] / "index")


def test_it_prints_masks_and_areas(index, capsys):
    assert main([index, "donut", "sand, beach", "--not", "brick", "--top", "3", "--areas"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "mask " in line and "box" in line]) == 3
    assert lines[0].split()[0] == "1" and float(lines[0].split()[1]) > 0.5
    assert sum(int(line.split(" pixels")[0].split()[-1]) for line in lines if "%, in " in line) == 4 * 96 * 96
    assert lines[-1].startswith("80 masks of 4 images; seconds: imports ")


def test_it_writes_the_masks_as_a_ranking_a_picture_and_for_coco(index, tmp_path):
    main([index, "donut", "sand", "--top", "5", "--output", str(tmp_path)])
    ranking = json.loads((tmp_path / "ranking.json").read_text())
    assert [one["rank"] for one in ranking] == [1, 2, 3, 4, 5]
    with Image.open(tmp_path / "ranking.png") as sheet:
        assert sheet.width > 600
    coco = COCO(tmp_path / "coco.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["donut", "sand"]
    for entry in coco.loadAnns(coco.getAnnIds()):
        assert coco.annToMask(entry).sum() == entry["area"] > 0
        assert entry["segmentation"] in [one["segmentation"] for one in ranking]


def test_it_writes_the_files_of_maft_predict(world, index, tmp_path):
    _, files, predictor = world
    words, things = ["donut", "sand", "cloud"], ["donut"]
    main([index, *words, "--things", "donut", "--output", str(tmp_path / "ask"), "--format", "overlay", "labels",
          "panoptic", "json"])  # fmt: skip
    predictor(files[0], words, things).save(tmp_path / "predict", "000000")
    written = sorted(path.name for path in (tmp_path / "predict").iterdir())
    assert written and set(written) <= {path.name for path in (tmp_path / "ask").iterdir()}
    for name in written:
        assert (tmp_path / "ask" / name).read_bytes() == (tmp_path / "predict" / name).read_bytes(), name


def test_labels_need_no_images_and_pictures_say_what_became_of_them(world, tmp_path, capsys):
    folder, files, predictor = world
    shutil.copytree(folder / "index", tmp_path / "index")
    expected = predictor(files[1], ["donut", "sand"]).labels
    kept = [(Path(file), Path(file).read_bytes()) for file in files]
    try:
        for file, content in kept[1:]:
            file.write_bytes(content + b"\0")
        shutil.move(files[0], tmp_path / "moved.png")
        words = [str(tmp_path / "index"), "donut", "sand", "--output", str(tmp_path / "out"), "--format"]
        assert main([*words, "labels", "json"]) == 0
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "000001_labels.png")), expected)
        assert main([*words, "overlay"]) == 1
        said = capsys.readouterr().err
        assert f"skipped: {files[0]}: Image {files[0]} of the index cannot be read (No such file" in said
        assert f"Image {files[1]} is another one now than the one that was indexed" in said
    finally:
        for file, content in kept:
            file.write_bytes(content)


def test_masks_like_a_mask(index, capsys):
    assert main([index, "--like", "1,3", "--top", "2"]) == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if "box" in line]) == 2


def test_a_label_set_is_asked_for_as_a_whole_or_competes_with_words(index, capsys):
    main([index, "--label-set", "pascal_context_59", "--top", "1"])
    assert "encoding 59 words" in capsys.readouterr().out
    main([index, "donut", "--label-set", "pascal_context_59", "--top", "1"])
    assert "encoding 60 words" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what to find: WORDS, --label-set"),
        (["donut", "--like", "0,0"], "say what to find: WORDS, --label-set"),
        (["--like", "first"], "'first' is not IMAGE,MASK"),
        (["--like", "0,0", "--not", "dog"], "--like finds masks, which have no words: leave --not, --alone"),
        (["--like", "0,0", "--alone"], "--like finds masks, which have no words"),
        (["--like", "0,0", "--output", "x", "--format", "coco"], "--like finds masks, which have no words"),
        (["donut", "--things", "donut"], "--things and --all-things are of images: add --format with panoptic or json"),
        (["donut", "--all-things", "--output", "x"], "--things and --all-things are of images"),
        (["donut", "--device", "tpu"], "The device 'tpu' is none of cpu, cuda"),
        (["donut", "--alone"], "'donut' alone has nothing to compete with"),
        (["donut", "--top", "0"], "masks to be found is 0"),
        (["donut", "--format", "labels"], "say where to write with --output"),
        (["donut", "--output", "x", "--format", "label"], "there is no 'label', choose some of ranking, coco, overlay"),
        (["donut", "--output", "x", "--format", "panoptic"], "panoptic segments need --things"),
        (["donut", "--engine", "annoy"], "no search engine 'annoy': choose exact or faiss"),
        (["donut", "--not", "Donut"], "'Donut' is asked for and ruled out at once"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(index, arguments, said):
    with pytest.raises(UserError, match=said):
        main([index, *arguments])


def test_nothing_is_written_into_an_index(index):
    for folder in (index, f"{index}/shards", f"{index}/model/../new"):
        with pytest.raises(UserError, match="--output .* lies in the index .*: choose a folder outside it"):
            main([index, "donut", "--output", folder])


def test_one_word_alone_says_that_it_is_all_labels(index, capsys):
    said = "Labels are of the words that are named, and every one is 'donut' here: name what else there is"
    main([index, "donut", "--areas"])
    assert said in capsys.readouterr().out
    main([index, "donut", "sand", "--areas"])
    main([index, "donut"])
    assert "Labels are of" not in capsys.readouterr().out


def test_images_of_strange_names_take_no_other_file_and_no_terminal(world, tmp_path, capsys):
    _, files, predictor = world
    images = ["ranking.png", "coco.png", "a\x1b[2Jb\nc.png"]
    for file, name in zip(files, images, strict=False):
        shutil.copy(file, tmp_path / name)
    records = [{"file_name": str(tmp_path / name)} for name in images]
    index = tmp_path / "index"
    make_index(predictor.cfg, predictor.model, index, Collection(records, PhotoMapper(predictor.cfg)))
    main([str(index), "donut", "sand", "--top", "60", "--output", str(tmp_path / "out"), "--format", "ranking", "coco",
          "json"])  # fmt: skip
    assert isinstance(json.loads((tmp_path / "out/ranking.json").read_text()), list)
    assert "annotations" in json.loads((tmp_path / "out/coco.json").read_text())
    assert (tmp_path / "out/ranking_2.json").exists() and (tmp_path / "out/coco_2.json").exists()
    out = capsys.readouterr().out
    assert "\x1b" not in out and r"a\x1b[2Jb\nc.png" in out


def test_a_folder_that_is_no_index_is_said(tmp_path):
    with pytest.raises(UserError, match="is no index"):
        main([str(tmp_path), "donut"])
