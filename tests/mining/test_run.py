"""The miner from images and captions to its table: variants, interruption, shards over processes, mistakes."""

import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from maft.errors import UserError
from maft.miniature.classes import miniature_classes
from maft.mining.run import MiningTask, mine

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("mining_run.py")


def _load_script():
    spec = importlib.util.spec_from_file_location("mining_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mining_run = _load_script()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mining")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
        mining_run.prepare(folder)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield folder
        torch.set_num_threads(threads)


def captions(work):
    return str(work / "datasets/miniature/train/captions.json")


def rows(output):
    with (output / "pairs.tsv").open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def ground_truth(work, output, *overrides):
    return mining_run.config(work, output, "MODEL.PROPOSER.NAME", "GroundTruth", "MODEL.WEIGHTS", "", *overrides)


def shown_pixels(output, row):
    return np.array(Image.open(output / row["filepath"]))[..., 3] > 0


def test_ground_truth_names_are_the_classes_of_each_image(work, tmp_path):
    counts = mine(ground_truth(work, tmp_path), MiningTask("ground_truth", None))
    names = miniature_classes().names
    found = rows(tmp_path)
    for number in range(mining_run.IMAGES):
        labels = np.array(Image.open(work / f"datasets/miniature/train/masks/{number:06d}.png"))
        here = [row["title"] for row in found if row["image"] == f"{number:06d}"]
        assert here == [names[label] for label in np.unique(labels)]
    assert counts["pairs"] == counts["regions"] == len(found)
    assert all(row["score"] == "" for row in found)
    assert all(shown_pixels(tmp_path, row).any() for row in found)


def test_nouns_of_captions_take_the_ground_truth_mask_that_clip_prefers(work, tmp_path):
    mine(ground_truth(work, tmp_path / "nouns"), MiningTask("ground_truth", captions(work), 5))
    mine(ground_truth(work, tmp_path / "names"), MiningTask("ground_truth", None))
    truth = {(row["image"], row["filepath"]): row["title"] for row in rows(tmp_path / "names")}
    named = [row for row in rows(tmp_path / "nouns") if row["title"] in miniature_classes().names]
    right = [truth[row["image"], row["filepath"]] == row["title"] for row in named]
    # The shipped CLIP knows this world; a wrong index anywhere would leave a quarter or so right by chance.
    assert np.mean(right) > 0.75
    assert {row["title"] for row in rows(tmp_path / "nouns")} - set(miniature_classes().names) >= {"photo", "picture"}


def test_a_killed_run_goes_on_in_two_processes_to_the_table_of_an_unbroken_one(work, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(SCRIPT), str(work), str(tmp_path / "broken"), "--kill-after", "4"]
    killed = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    shards = list((tmp_path / "broken/shards").rglob("*.json"))
    assert len(shards) == 4 and not (tmp_path / "broken/pairs.tsv").exists()
    before = {path: path.stat().st_mtime_ns for path in shards}

    overrides = mining_run.config(work, tmp_path / "broken")
    tool = subprocess.run(
        [
            sys.executable, "tools/mine_mask_nouns.py", "--config-file", str(mining_run.CONFIG),
            "--captions", captions(work), "--captions-per-image", "5", "--output", str(tmp_path / "broken"),
            "--num-gpus", "0", "--num-processes", "2", "MODEL.WEIGHTS", overrides.MODEL.WEIGHTS,
            "MODEL.PROPOSER.Mask2Former.NUM_QUERIES", "6",
        ],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert tool.returncode == 0, tool.stderr
    assert {path: path.stat().st_mtime_ns for path in shards} == before
    assert "paper, on 118 K images of COCO: 1.3 M pairs, 27 K nouns" in tool.stdout

    counts = mine(mining_run.config(work, tmp_path / "whole"), mining_run.task(work))
    for name in ("pairs.tsv", "statistics.json"):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert counts["pairs"] > 4 * mining_run.IMAGES
    for row in rows(tmp_path / "whole"):
        one, other = ((tmp_path / run / row["filepath"]).read_bytes() for run in ("broken", "whole"))
        assert one == other


def test_another_task_in_the_same_folder_is_refused(work, tmp_path):
    mine(ground_truth(work, tmp_path), MiningTask("ground_truth", None, limit=2))
    with pytest.raises(UserError, match="was mined with other settings"):
        mine(ground_truth(work, tmp_path), MiningTask("ground_truth", captions(work)))


def test_other_images_or_weights_in_the_same_folder_are_refused(work, tmp_path):
    torch.save(load_file(work / "weights.safetensors"), weights := tmp_path / "w.pth")

    def run(*overrides, images=None):
        task = MiningTask("proposals", captions(work), images=images, limit=2)
        return mine(mining_run.config(work, tmp_path / "out", "MODEL.WEIGHTS", str(weights), *overrides), task)

    assert run() == run()
    shutil.copytree(work / "datasets/miniature/train/images", tmp_path / "copies")
    with pytest.raises(UserError, match=r"mined with other settings \(images: .*train/images', now .*copies"):
        run(images=str(tmp_path / "copies"))
    with pytest.raises(UserError, match=r"mined with other settings \(datasets: "):
        run("DATASETS.TRAIN", "['miniature_train', 'miniature_val']")
    state = load_file(work / "weights.safetensors")
    torch.save({name: value * 0.5 if value.is_floating_point() else value for name, value in state.items()}, weights)
    with pytest.raises(UserError, match=r"mined with other settings \(weights_images_and_nouns: "):
        run()


def test_a_mask_that_vanishes_in_its_region_gives_no_pair(work, tmp_path):
    own = tmp_path / "own"
    for part in ("images", "masks"):
        (own / part).mkdir(parents=True)
    (own / "classes.txt").write_text("tent\ndog\n")
    labels = np.zeros((500, 500), np.uint8)
    labels[3, -3] = labels[-3, 3] = 1
    Image.fromarray(labels).save(own / "masks/a.png")
    Image.fromarray(np.dstack([labels] * 3)).save(own / "images/a.png")
    sizes = ("INPUT.MIN_SIZE_TEST", "500", "INPUT.MAX_SIZE_TEST", "500")
    mine(
        ground_truth(work, tmp_path / "out", "DATASETS.TRAIN", f"['folder:{own}']", *sizes),
        MiningTask("ground_truth", None),
    )
    (row,) = rows(tmp_path / "out")
    assert row["title"] == "tent" and shown_pixels(tmp_path / "out", row).any()


def write_captions(path, words):
    images = [{"id": number, "file_name": f"{number:06d}.png"} for number in range(len(words))]
    notes = [{"id": n, "image_id": n, "caption": caption} for n, caption in enumerate(words) if caption is not None]
    path.write_text(json.dumps({"images": images, "annotations": notes}))
    return str(path)


def test_images_without_a_noun_or_a_caption_are_reported_and_give_no_pair(work, tmp_path, capsys):
    file = write_captions(tmp_path / "c.json", ["a photo of a tent.", "very quickly.", None])
    counts = mine(ground_truth(work, tmp_path / "out"), MiningTask("ground_truth", file))
    printed = capsys.readouterr().out
    assert counts["images"] == 3 and counts["images_without_pair"] == 2
    assert "1 of 3 images have captions without a noun and give no pair, the first is 000001.png ('very" in printed
    assert "1 of 3 images have no caption and give no pair, the first is 000002.png" in printed


def test_mistakes_are_sentences(work, tmp_path):
    silent = write_captions(tmp_path / "silent.json", ["quickly.", "very slowly"])
    with pytest.raises(UserError, match=r"No caption of .*silent.json has a noun"):
        mine(mining_run.config(work, tmp_path / "a"), MiningTask("proposals", silent))
    with pytest.raises(UserError, match=r"3 of 3 captioned images are missing, the first is .*elsewhere/000000.png"):
        file = write_captions(tmp_path / "c.json", ["a dog"] * 3)
        mine(mining_run.config(work, tmp_path / "b"), MiningTask("proposals", file, images=str(tmp_path / "elsewhere")))
    with pytest.raises(UserError, match=r"weights.safetensors does not fit the model"):
        mine(
            mining_run.config(work, tmp_path / "c", "MODEL.PROPOSER.Mask2Former.NUM_QUERIES", "7"),
            mining_run.task(work),
        )
    long = write_captions(tmp_path / "long.json", ["a photo of a " + "-".join(["dog"] * 12)])
    with pytest.raises(UserError, match=r"The nouns of .*long\.json cannot be encoded: The text .*dog-dog"):
        mine(mining_run.config(work, tmp_path / "e"), MiningTask("proposals", long))
    with pytest.raises(UserError, match="MODEL.CLASSIFIER MaskedCrops"):
        mine(mining_run.config(work, tmp_path / "d", "MODEL.CLASSIFIER.NAME", "none"), mining_run.task(work))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("guesses", "c.json"), "not one of: proposals, ground_truth"),
        (("proposals", None), "Proposals have no names of their own"),
        (("proposals", "c.json", 0), "must be at least 1"),
    ],
)
def test_impossible_tasks(arguments, complaint):
    with pytest.raises(UserError, match=complaint):
        MiningTask(*arguments)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"masks": "sam", "captions": "c.json"}, "--masks 'sam' is not one of"),
        ({"masks": "proposals", "captions": None}, "Proposals have no names of their own"),
        ({"masks": "ground_truth", "captions": None, "limit": -3}, "--limit -3 is no number of images"),
        ({"masks": "ground_truth", "captions": None, "images": "photos"}, "--images has no effect with"),
    ],
)
def test_tasks_that_cannot_be_meant(options, sentence):
    with pytest.raises(UserError, match=sentence):
        MiningTask(**options)
