"""maft calibrate, and what it says of models and datasets that cannot be calibrated."""

import json

import numpy as np
import pytest
from PIL import Image

from maft.cli.calibrate import main
from maft.cli.predict import main as predict
from maft.errors import UserError
from maft.miniature import materialise


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    materialise(root / "miniature", "val", 24)
    return root


@pytest.fixture(autouse=True)
def datasets(world, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))


def test_a_model_is_calibrated_and_answers_under_a_bound(world, tmp_path, capsys):
    output = tmp_path / "calibrated"
    main(["--model", "miniature", "--dataset", "miniature_val", "--images", "16", "--output", str(output)])
    said = capsys.readouterr().out
    assert "from 4 images of miniature_val, then isotonic regression" in said
    assert "then isotonic regression (" in said
    assert "Thresholds from 12 images that lack seen words and 12 images that lack unseen words" in said
    assert said.count("too few images") == 2 and f"Written: {output / 'calibration.json'}" in said
    content = json.loads((output / "calibration.json").read_text())
    assert content["dataset"] == "miniature_val" and len(content["words"]) == 24
    image = str(world / "miniature/val/images/000001.png")
    arguments = [image, "--model", str(output), "--output", str(tmp_path / "out")]
    assert predict([*arguments, "--alpha", "0.1"]) == 0
    assert json.loads((tmp_path / "out/000001.json").read_text())["alpha"] == 0.1
    with pytest.raises(UserError, match="takes at least 49 calibration images"):
        predict([*arguments, "--alpha", "0.02"])
    # Beside a checkpoint of one's own it needs no place.
    before = (output / "calibration.json").read_bytes()
    main(["--model", str(output), "--dataset", "miniature_val", "--images", "12", "--absent", "cat"])
    assert (output / "calibration.json").read_bytes() != before


def test_a_calibration_is_that_of_the_overrides(world, tmp_path):
    output, overrides = tmp_path / "calibrated", ["INPUT.MIN_SIZE_TEST", "64"]
    image = str(world / "miniature/val/images/000001.png")
    # Behind a list of words they are no words.
    arguments = ["--model", "miniature", "--dataset", "miniature_val", "--images", "16", "--output", str(output)]
    main([*arguments, "--absent", "cat", *overrides])
    content = json.loads((output / "calibration.json").read_text())
    assert content["facts"]["INPUT.MIN_SIZE_TEST"] == 64 and content["words"][-1] == "cat"
    # The folder holds them, too.
    arguments = [image, "--model", str(output), "--output", str(tmp_path / "out"), "--alpha", "0.1"]
    assert predict(arguments) == 0
    with pytest.raises(UserError, match="with INPUT.MIN_SIZE_TEST 64, not 96: calibrate this model"):
        predict([*arguments, "INPUT.MIN_SIZE_TEST", "96"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dataset", "miniature_val"], "miniature is kept for everybody .* say with --output"),
        (["--dataset", "miniature_train"], r"those that the model was trained on \(miniature_train_seen\)"),
        (["--dataset", "miniature_val", "--images", "3"], "at least 4 images, and these are 3"),
        (["--dataset", "miniature_val", "--images", "400"], "has 24 images, fewer than 400"),
        (["--dataset", "miniature_vat"], "miniature_vat"),
        (["--dataset", "miniature_val", "--absent", "bee"], "--absent names 'bee', which is a class of miniature_val"),
    ],
)
def test_what_cannot_be_calibrated(arguments, sentence, tmp_path):
    place = [] if "kept" in sentence else ["--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match=sentence):
        main(["--model", "miniature", *arguments, *place])
    assert not (tmp_path / "out").exists()


def test_without_an_absent_word_there_is_nothing_to_calibrate_on(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / "mine" / part).mkdir(parents=True)
    (tmp_path / "mine/classes.txt").write_text("grass\nsand\n")
    draws = np.random.default_rng(0)
    for number in range(8):
        pixels, labels = draws.integers(0, 256, (40, 40, 3)), np.arange(1600).reshape(40, 40) % 2
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"mine/images/{number}.png")
        Image.fromarray(labels.astype(np.uint8)).save(tmp_path / f"mine/masks/{number}.png")
    arguments = ["--model", "miniature", "--dataset", f"folder:{tmp_path / 'mine'}", "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="Every word is in every image of folder.*name words .* with --absent"):
        main(arguments)
    main([*arguments, "--absent", "cat", "bee"])
    assert set(json.loads((tmp_path / "out/calibration.json").read_text())["groups"]) == {"seen", "unseen"}


@pytest.mark.parametrize("alpha", ["0", "1.5", "x"])
def test_alpha_on_the_command_line(alpha):
    with pytest.raises(UserError, match="argument --alpha"):
        predict(["a.png", "--model", "miniature", "--alpha", alpha])
