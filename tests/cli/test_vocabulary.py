"""A vocabulary file is made, shown and changed by commands, and nothing in it is lost."""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from maft import cli
from maft.errors import UserError
from maft.miniature import render_scene
from maft.predictor.looks import ExampleLooks
from maft.vocabulary import Vocabulary

SCENE = render_scene(0, "val")
GIFT, BUOY = SCENE.things[:2]


def maft(*words):
    return cli.run(["vocabulary", *map(str, words)])


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(SCENE.image).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def labels(tmp_path):
    Image.fromarray(SCENE.sem_seg).save(tmp_path / "labels.png")
    return tmp_path / "labels.png"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "mine.safetensors"


def box_of(label):
    rows, columns = np.nonzero(SCENE.sem_seg == label)
    return f"{columns.min()},{rows.min()},{columns.max() + 1},{rows.max() + 1}"


def test_a_file_grows_by_words_and_examples_and_shrinks_again(file, photo, labels, tmp_path, capsys):
    maft("words", file, "sand", "cloud, fluff")
    begun = Vocabulary.load(file)
    maft("add", file, "my gift", "--image", photo, "--mask", labels, "--value", GIFT)
    maft("add", file, "cloud", "--image", photo, "--mask", labels, "--value", BUOY)
    Image.fromarray((SCENE.sem_seg == BUOY).astype(np.uint8) * 255).save(tmp_path / "mask.png")
    maft("add", file, "my gift", "--image", photo, "--mask", tmp_path / "mask.png")
    held = Vocabulary.load(file)
    assert held.names == ("sand", "cloud, fluff", "my gift") and [len(held.of(i)) for i in range(3)] == [0, 1, 2]
    np.testing.assert_array_equal(held.of(2)[0].mask, SCENE.sem_seg == GIFT)
    np.testing.assert_array_equal(held.of(2)[1].image, SCENE.image)
    printed = capsys.readouterr().out
    assert f"my gift has 2 examples, the new one {(SCENE.sem_seg == BUOY).sum()} of 9216 pixels" in printed
    maft("remove", file, "my gift")
    maft("remove", file, "cloud")
    assert Vocabulary.load(file) == begun
    assert "cloud, fluff is shown by no example any more, its words stay; 2 classes" in capsys.readouterr().out
    maft("remove", file, "cloud")
    assert Vocabulary.load(file) == Vocabulary(("sand",))


def test_what_two_commands_add_at_once_is_all_there(file, photo, labels, monkeypatch):
    maft("words", file, "sand", "beach")
    load = Vocabulary.load

    def slow(path):
        held = load(path)
        time.sleep(0.05)
        return held

    monkeypatch.setattr(Vocabulary, "load", slow)
    shown = "--image", photo, "--mask", labels, "--value"
    commands = [("add", file, "gift", *shown, label) for label in (GIFT, BUOY)]
    commands += [("words", file, "cloud"), ("words", file, "brick"), ("remove", file, "beach")]
    with ThreadPoolExecutor(len(commands)) as pool:
        list(pool.map(lambda command: maft(*command), commands))
    held = load(file)
    assert set(held.names) == {"sand", "gift", "cloud", "brick"} and len(held.of(held.index("gift"))) == 2
    assert os.listdir(file.parent).count(file.name) == 1 and not list(file.parent.glob(".*"))


def test_what_is_added_while_a_model_looks_is_kept_and_looked_at(file, photo, labels, monkeypatch):
    shown = "--image", photo, "--mask", labels, "--value"
    maft("words", file, "sand")
    maft("add", file, "gift", *shown, GIFT)
    look = ExampleLooks._look

    def interrupted(self, example, name):
        if name == "gift" and len(Vocabulary.load(file)) == 2:
            maft("add", file, "buoy", *shown, BUOY)
        return look(self, example, name)

    monkeypatch.setattr(ExampleLooks, "_look", interrupted)
    maft("prepare", file, "--model", "miniature")
    held = Vocabulary.load(file)
    assert [len(one.looks) for examples in held.examples for one in examples] == [1, 1]


def test_the_table_and_the_pictures_show_what_is_in_it(file, photo, labels, tmp_path, capsys):
    maft("words", file, "sand, beach")
    shown = "--image", photo, "--mask", labels, "--value", GIFT
    maft("add", file, "a/b: мой подарок, gift", "--no-words", *shown)
    capsys.readouterr()
    maft(file, "--pictures", tmp_path / "pictures")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["sand,", "beach", "yes"]
    assert lines[3].split()[-5:] == ["1", str((SCENE.sem_seg == GIFT).sum()), "of", "96x96", "0"]
    (picture,) = (tmp_path / "pictures").iterdir()
    assert picture.name == "1_a_b_мой_подарок_1.png" and Image.open(picture).size == (384, 384)
    maft("list", file)
    assert capsys.readouterr().out.splitlines() == lines[:4]


def test_boxes_and_clicks_are_answered_by_a_model(file, photo):
    maft("add", file, "gift", "--image", photo, "--box", box_of(GIFT), "--model", "miniature")
    rows, columns = np.nonzero(SCENE.sem_seg == BUOY)
    middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    clicked = "--point", f"{columns[middle]},{rows[middle]}", "--not-point", "1,1"
    maft("add", file, "gift", "--image", photo, *clicked, "--model", "miniature", "INPUT.MIN_SIZE_TEST", "128")
    # Without the words of a training, the name says what to look for.
    maft("add", file, "gift", "--image", photo, "--box", box_of(BUOY), "--model", "miniature", "DATASETS.TRAIN", "()")
    for label, found in zip((GIFT, BUOY, BUOY), Vocabulary.load(file).of(0), strict=True):
        truth = SCENE.sem_seg == label
        assert (found.mask & truth).sum() / (found.mask | truth).sum() > 0.5


def test_sam_is_asked_in_the_place_of_the_models_own_masks(file, photo, random_sam):
    """By the same overrides that maft predict takes."""
    shown = "--image", photo, "--box", box_of(GIFT), "--model", "miniature"
    on_sam = "MODEL.PROPOSER.NAME", "SAM", "MODEL.PROPOSER.SAM.PRETRAINED", random_sam("sam")
    maft("add", file, "gift", *shown, *on_sam, "MODEL.ENSEMBLE.NAME", "ClassifierAlone")
    maft("add", file, "gift", *shown)
    of_sam, of_the_model = Vocabulary.load(file).of(0)
    assert of_sam.image.tobytes() == of_the_model.image.tobytes() and of_sam != of_the_model


def test_a_prepared_file_holds_what_the_model_sees_and_names_the_same(file, photo, labels, tmp_path, capsys):
    maft("words", file, "sand", "cloud", "flag")
    maft("add", file, "drawn", "--no-words", "--image", photo, "--mask", labels, "--value", GIFT)
    ask = "predict", str(photo), "--model", "miniature", "--vocabulary", str(file), "--format", "labels"
    cli.run([*ask, "--output", str(tmp_path / "before")])
    before = Vocabulary.load(file)
    maft("prepare", file, "--model", "miniature")
    after = Vocabulary.load(file)
    assert after == before and after.seen is None and len(after.of(3)[0].looks) == 1 and not before.of(3)[0].looks
    assert "holds what this model sees in 1 example\n" in capsys.readouterr().out
    maft("prepare", file, "--model", "miniature", "INPUT.MIN_SIZE_TEST", "128")
    assert len(Vocabulary.load(file).of(3)[0].looks) == 2, "nothing of the first is lost"
    cli.run([*ask, "--output", str(tmp_path / "after")])
    name = f"{photo.stem}_labels.png"
    found = np.asarray(Image.open(tmp_path / "after" / name))
    np.testing.assert_array_equal(found, np.asarray(Image.open(tmp_path / "before" / name)))
    assert (found == 3)[SCENE.sem_seg == GIFT].mean() > 0.5, "the class without a word is found where it was shown"


def test_an_index_is_asked_with_a_prepared_file(file, photo, labels, tmp_path, capsys):
    """It has no image tower to look at examples with."""
    index = str(tmp_path / "index")
    cli.run(["index", str(photo), "--model", "miniature", "--output", index])
    maft("words", file, "sand", "cloud")
    maft("add", file, "drawn", "--no-words", "--image", photo, "--mask", labels, "--value", GIFT)
    with pytest.raises(UserError, match="has not looked at the examples of 'drawn'.* maft vocabulary prepare"):
        cli.run(["ask", index, "--vocabulary", str(file)])
    maft("prepare", file, "--model", "miniature")
    capsys.readouterr()
    cli.run(["ask", index, "--vocabulary", str(file), "--areas"])
    assert re.search(r"^drawn +\d+ pixels", capsys.readouterr().out, re.MULTILINE)


def test_what_has_no_examples_needs_no_preparation(file):
    maft("words", file, "sand")
    with pytest.raises(UserError, match="has no examples to look at: add some with maft vocabulary add"):
        maft("prepare", file, "--model", "miniature")


@pytest.mark.parametrize(("words", "message"), [
    (["ad", "FILE", "x"], "there is no action 'ad', only list, words, .*Did you mean add"),
    (["words", "FILE", "x", "--model", "miniature"], "unrecognized arguments: --model"),
    (["FILE"], "vocabulary file FILE does not exist: check its path"),
    (["remove", "FILE", "x"], "FILE does not exist"),
    (["list", "PHOTO"], "PHOTO is no readable vocabulary file"),
    (["words", "PHOTO", "cat"], "PHOTO is no readable vocabulary file"),
    (["words", "FILE", "cat", "Cat"], "'Cat' occurs twice"),
    (["add", "FILE", "x", "--image", "PHOTO"], "one of the arguments --mask --box --point is required"),
    (["add", "FILE", "x", "--image", "PHOTO", "--box", "1,2,3"], "'1,2,3' is not X0,Y0,X1,Y1"),
    (["add", "FILE", "x", "--image", "PHOTO", "--box", "1,2,9,9"], "answered by a model: name one with --model"),
    (["add", "FILE", "x", "--image", "PHOTO", "--mask", "PHOTO", "--model", "miniature"], "a mask needs no model"),
    (["add", "FILE", "x", "--image", "PHOTO", "--mask", "PHOTO", "--not-point", "1,2"], "it goes with --point"),
    (["add", "FILE", "x", "--image", "PHOTO", "--box", "1,2,9,9", "--value", "3"], "give one with --mask"),
    (["add", "FILE", "x", "--image", "none.png", "--mask", "PHOTO"], "Image none.png does not exist"),
    (["add", "FILE", "x", "--image", "PHOTO", "--mask", "none.png"], "Mask none.png does not exist"),
    (["add", "FILE", "x", "--image", "PHOTO", "--mask", "EMPTY"], "Mask EMPTY is empty: mark at least one pixel"),
    (["add", "FILE", "x", "--image", "PHOTO", "--mask", "SMALL"], "SMALL.png: it has 60x40 pixels, .* has 96x96"),
    (["add", "FILE", "x", "--image", "PHOTO", "--mask", "LABELS", "--value", "200"], "no pixel of the value 200"),
    (["add", "FILE", "x", "--image", "PHOTO", "--mask", "LABELS"], "marks every pixel: .* of a label map"),
    (["add", "FILE", "x", "--no-words", "--image", "PHOTO", "--point", "48,60", "--model", "miniature"], "with words"),
    (["add", "FILE", "x", "--image", "PHOTO", "--box", "1,2,97,9", "--model", "miniature"], "reaches outside the pic"),
    (["add", "FILE", "x", "--image", "PHOTO", "--point", "96,9", "--model", "miniature"], "lies outside the picture"),
    (["add", "FILE", "x", "--image", "PHOTO", "--box", "0,0,3,3", "--model", "miniature"], "No mask .* fits in the b"),
    (["add", "FILE", "x", "--image", "PHOTO", "--box", "1,2,9,9", "--model", "miniatur"], "no released model"),
])  # fmt: skip
def test_what_cannot_be_done_is_said_and_leaves_nothing(words, message, file, photo, labels, tmp_path):
    for name, size in (("EMPTY", (96, 96)), ("SMALL", (60, 40))):
        Image.new("L", size).save(tmp_path / f"{name}.png")
    places = {"FILE": file, "PHOTO": photo, "LABELS": labels}
    places |= {name: tmp_path / f"{name}.png" for name in ("EMPTY", "SMALL")}
    before = photo.read_bytes()
    message = message.replace("FILE", str(file)).replace("PHOTO", str(photo)).replace("EMPTY", str(places["EMPTY"]))
    with pytest.raises(UserError, match=message):
        maft(*(places.get(word, word) for word in words))
    assert not file.exists() and photo.read_bytes() == before


def test_a_file_is_as_it_was_where_it_cannot_be_changed(file, photo, labels):
    maft("words", file, "cat")
    before = file.read_bytes()
    for words, message in (
        (["words", file, "dog", "CAT"], "has 'CAT' already"),
        (["remove", file, "dog"], "no class 'dog'"),
        (["remove", file, "cat"], "the only class of the vocabulary: remove its file"),
        (
            ["add", file, "cat", "--no-words", "--image", photo, "--mask", labels, "--value", GIFT],
            "is there by its words",
        ),
    ):
        with pytest.raises(UserError, match=message):
            maft(*words)
    assert file.read_bytes() == before and not list(file.parent.glob(".*"))
