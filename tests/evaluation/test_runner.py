"""Evaluation from a config to its reports: a real loader and evaluators around a model that reads colours."""

import csv
import json
import logging
import math
import pickle
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn

from maft.data.catalog import dataset
from maft.errors import UserError
from maft.evaluation import CityscapesInstanceEvaluator, check_evaluation, draw_predictions, evaluate, evaluate_dataset
from maft.evaluation.counts import read_counts
from maft.evaluation.evaluators import build_evaluators
from maft.evaluation.runs import read_results
from maft.files import sha256
from maft.miniature import materialise
from maft.structures import Vocabulary

COUNT = 7


class ColourReader(nn.Module):
    """Says of a pixel the class that its red channel names: ``red // 10`` among the words it was given."""

    def __init__(self, scores: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.vocabulary, self.things, self.scores = Vocabulary(("before",)), None, scores
        self.proposer = SimpleNamespace(needs_targets=False, check_records=lambda records: None)
        self.calls = 0
        self.stop_at = -1

    @contextmanager
    def using_vocabulary(self, vocabulary, things=None):
        before = self.vocabulary, self.things
        self.vocabulary, self.things = vocabulary, things
        try:
            yield
        finally:
            self.vocabulary, self.things = before

    def forward(self, batch):
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.calls += 1
        assert not self.training
        results = []
        for record in batch:
            red = nn.functional.interpolate(record["image"][None, :1].float(), (record["height"], record["width"]))
            labels = (red[0, 0] / 10).round().long() % len(self.vocabulary)
            if self.scores:
                results.append({"sem_seg": nn.functional.one_hot(labels, len(self.vocabulary)).permute(2, 0, 1)})
            else:
                results.append({"sem_seg_labels": labels})
        return results


def comparable(results):
    """All numbers by task and metric, NaN as None, which equals itself."""
    return {
        (task, metric): None if math.isnan(value) else value
        for task, values in results.items()
        for metric, value in values.items()
    }


@pytest.fixture
def folder(tmp_path):
    """Your own data with four classes; every image has a stripe that the colour misnames."""
    root = tmp_path / "own"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("tree\nhouse, home\nroad\nsky\n")
    draws = np.random.default_rng(0)
    for index in range(COUNT):
        labels = draws.integers(0, 3, (6, 8)).repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)
        image = np.zeros((24, 32, 3), dtype=np.uint8)
        image[..., 0] = labels * 10
        image[:4, ..., 0] = 10
        labels[20:, 16:] = 255
        Image.fromarray(image).save(root / "images" / f"{index}.png")
        Image.fromarray(labels).save(root / "masks" / f"{index}.png")
    return f"folder:{root}"


@pytest.fixture
def cfg(folder, plain_cfg):
    cfg = plain_cfg
    cfg.DATASETS.TEST, cfg.DATASETS.TRAIN = [folder], [folder]
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 24, 64
    return cfg


@pytest.fixture
def output(tmp_path):
    def path():
        (found,) = (tmp_path / "out" / "inference").iterdir()
        return found

    return path


def test_numbers_reports_and_pictures(cfg, folder, output, caplog):
    cfg.TEST.VISUALIZE = 2
    cfg.TEST.EXPECTED = [[folder, "mIoU", 90.0], [folder, "sem_seg/pACC", 80.0], ["voc_20_val", "mIoU", 1.0]]
    model = ColourReader().train()
    with caplog.at_level(logging.INFO):
        results = evaluate(cfg, model)[folder]["sem_seg"]
    assert model.training and model.vocabulary.names == ("before",)
    # All pixels but the misnamed stripe are right.
    right = wrong = 0
    for index in range(COUNT):
        root = folder.removeprefix("folder:")
        labels = np.asarray(Image.open(f"{root}/masks/{index}.png"))
        found = np.asarray(Image.open(f"{root}/images/{index}.png"))[..., 0] // 10
        right += ((found == labels) & (labels != 255)).sum()
        wrong += ((found != labels) & (labels != 255)).sum()
    assert wrong > 0 and results["pACC"] == pytest.approx(100 * right / (right + wrong))
    assert math.isnan(results["IoU-sky"])

    written = json.loads((output() / "results.json").read_text())
    assert written["results"]["sem_seg"]["mIoU"] == results["mIoU"]
    assert written["results"]["sem_seg"]["IoU-sky"] is None
    assert written["vocabulary"] == ["tree", "house, home", "road", "sky"]
    assert set(written["seconds_per_image"]) == {"data", "model", "evaluator"}
    with open(output() / "per_class.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == written["vocabulary"]
    assert float(rows[0]["IoU"]) == results["IoU-tree"] and rows[3]["IoU"] == ""

    pictures = sorted((output() / "pictures").glob("*.png"))
    assert [picture.name for picture in pictures] == ["0.png", "1.png"]
    for picture in pictures:
        pixels = np.asarray(Image.open(picture))
        assert pixels.shape[1] > 3 * 320 and pixels.std() > 10
    assert f"{results['mIoU'] - 90:.3f}" in caplog.text and f"{results['pACC'] - 80:.3f}" in caplog.text
    assert "mean IoU over the classes in the ground truth" in caplog.text
    assert "evaluator" in caplog.text and not list(output().glob("unfinished*"))


def test_score_maps_give_the_same_numbers(cfg, folder):
    by_scores, by_labels = (evaluate(cfg, ColourReader(scores=scores))[folder] for scores in (True, False))
    assert comparable(by_scores) == comparable(by_labels)


@pytest.fixture
def always_saved(monkeypatch):
    monkeypatch.setattr("maft.evaluation.progress.SAVE_SECONDS", 0)


def test_an_interrupted_evaluation_is_continued(cfg, folder, output, always_saved):
    whole = evaluate_dataset(cfg, ColourReader(), folder)
    stopped = ColourReader()
    stopped.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        evaluate_dataset(cfg, stopped, folder)
    assert stopped.vocabulary.names == ("before",)
    assert len(list(output().glob("unfinished*"))) == 1
    cfg.TEST.RESUME = True
    continued = ColourReader()
    assert comparable(evaluate_dataset(cfg, continued, folder)) == comparable(whole)
    assert continued.calls == COUNT - 4
    assert not list(output().glob("unfinished*"))
    # Without anything to continue, all images are evaluated.
    assert comparable(evaluate_dataset(cfg, continued, folder)) == comparable(whole)
    assert continued.calls == COUNT - 4 + COUNT


def test_without_asking_nothing_is_continued(cfg, folder, always_saved):
    stopped = ColourReader()
    stopped.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        evaluate_dataset(cfg, stopped, folder)
    again = ColourReader()
    evaluate_dataset(cfg, again, folder)
    assert again.calls == COUNT


def test_the_counts_of_another_model_are_refused(cfg, folder, always_saved):
    stopped = ColourReader()
    stopped.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        evaluate_dataset(cfg, stopped, folder)
    cfg.TEST.RESUME = True
    other = ColourReader()
    nn.init.ones_(other.weight)
    with pytest.raises(UserError, match="of another model, dataset or protocol"):
        evaluate_dataset(cfg, other, folder)


@pytest.fixture
def miniature(cfg, tmp_path, monkeypatch):
    cfg.DATASETS.TEST = ["miniature_val"]
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    materialise(tmp_path / "miniature", "val", 4)
    return "miniature_val"


def test_seen_and_unseen_classes_are_reported_where_there_is_a_split(cfg, miniature):
    results = evaluate(cfg, ColourReader())[miniature]["sem_seg"]
    assert {"seen_mIoU", "unseen_mIoU", "harmonic_mIoU", "harmonic_pACC"} <= set(results)


def test_without_a_split_overlap_says_which_classes_are_new(cfg, folder, output, tmp_path):
    before = evaluate(cfg, ColourReader())[folder]["sem_seg"]
    assert "unseen_mIoU" not in before
    trained = tmp_path / "trained"
    shutil.copytree(folder.removeprefix("folder:"), trained)
    (trained / "classes.txt").write_text("road\nhouse\nlake\n")
    cfg.MODEL.VOCABULARY.SEEN, cfg.DATASETS.TRAIN = "overlap", [f"folder:{trained}"]
    results = evaluate(cfg, ColourReader())[folder]["sem_seg"]
    np.testing.assert_equal({name: results[name] for name in before}, before)
    assert results["seen_mIoU"] == pytest.approx((results["IoU-house, home"] + results["IoU-road"]) / 2)
    assert results["unseen_mIoU"] == pytest.approx(results["IoU-tree"])  # there is no sky in the masks
    with (output() / "per_class.csv").open() as file:
        assert {row["name"] for row in csv.DictReader(file) if row["seen"] == "1"} == {"house, home", "road"}
    cfg.TEST.PROTOCOL = "unseen_only"
    evaluate(cfg, ColourReader())
    assert set(json.loads((output() / "results.json").read_text())["vocabulary"]) == {"tree", "sky"}


def test_unseen_only_gives_the_model_the_unseen_words(cfg, miniature, output):
    cfg.TEST.PROTOCOL, cfg.TEST.VISUALIZE = "unseen_only", 1
    results = evaluate(cfg, ColourReader())[miniature]["sem_seg"]
    words = json.loads((output() / "results.json").read_text())["vocabulary"]
    assert 0 < len(words) < 24 and {name for name in results if name.startswith("IoU-")} == {f"IoU-{w}" for w in words}
    assert len(list((output() / "pictures").iterdir())) == 1


def test_pictures_for_tensorboard_use_the_training_words(cfg, folder):
    model = ColourReader().train()
    model.vocabulary = Vocabulary(("tree", "house", "road", "sky"))
    pictures = draw_predictions(cfg, model, count=2)
    assert list(pictures) == ["prediction/0", "prediction/1"] and model.training
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in pictures.values())


def test_mistakes_are_named_before_anything_is_evaluated(cfg, folder):
    model = ColourReader()
    cfg.DATASETS.TEST = [folder, "miniature_vall"]
    with pytest.raises(UserError, match="miniature_vall.*Did you mean miniature_val"):
        evaluate(cfg, model)
    cfg.DATASETS.TEST = []
    with pytest.raises(UserError, match="DATASETS.TEST is empty"):
        evaluate(cfg, model)
    cfg.DATASETS.TEST = [folder]
    cfg.MODEL.INFERENCE.SEMANTIC = False
    with pytest.raises(UserError, match="Nothing can be measured"):
        evaluate(cfg, model)
    assert model.calls == 0


def test_the_rules_of_a_benchmark_are_those_of_its_own_code(cfg):
    cfg.MODEL.INFERENCE.PANOPTIC = cfg.MODEL.INFERENCE.INSTANCE = True
    evaluators = build_evaluators(cfg, dataset("cityscapes_panoptic_val"), [])
    assert evaluators["panoptic_seg"].rule == "panopticapi"
    assert isinstance(evaluators["segm"], CityscapesInstanceEvaluator)
    cfg.TEST.PANOPTIC_RULE = "pixels"
    assert build_evaluators(cfg, dataset("cityscapes_panoptic_val"), [])["panoptic_seg"].rule == "pixels"
    cfg.TEST.EXPECTED = [["cityscapes_panoptic_val", "segm/cityscapes_AP", 26.8]]
    check_evaluation(cfg, ["cityscapes_panoptic_val"])


def test_an_expected_metric_is_checked(cfg, folder, output):
    model = ColourReader()
    cfg.TEST.EXPECTED = [[folder, "miou", 1.0]]
    with pytest.raises(UserError, match="'miou', which does not exist; there is mIoU"):
        evaluate(cfg, model)
    assert model.calls == 0
    # A folder has no unseen classes; the numbers are written all the same.
    cfg.TEST.EXPECTED = [[folder, "unseen_mIoU", 1.0]]
    with pytest.raises(UserError, match="'unseen_mIoU', which was not measured"):
        evaluate(cfg, model)
    assert (output() / "results.json").is_file()


def _evaluate_share(rank, cfg, folder):
    dist.init_process_group("gloo", init_method=f"file://{cfg.OUTPUT_DIR}_meeting", rank=rank, world_size=2)
    results = evaluate_dataset(cfg, ColourReader(), folder)
    Path(f"{cfg.OUTPUT_DIR}_{rank}.pkl").write_bytes(pickle.dumps(comparable(results)))
    dist.destroy_process_group()


def test_two_processes_give_the_numbers_of_one(cfg, folder, output):
    torch.multiprocessing.start_processes(_evaluate_share, (cfg, folder), nprocs=2, start_method="fork")
    shared = [pickle.loads(Path(f"{cfg.OUTPUT_DIR}_{rank}.pkl").read_bytes()) for rank in range(2)]
    assert not list(output().glob("unfinished*"))
    whole = comparable(evaluate_dataset(cfg, ColourReader(), folder))
    assert shared == [whole, whole]


def files_of(counts):
    return {name: values.tolist() for name, values in counts.tables["sem_seg"].items()}, counts.pictures.tolist()


def test_the_counts_of_each_image_are_the_same_through_interruptions_and_processes(cfg, folder, output, always_saved):
    whole = evaluate_dataset(cfg, ColourReader(), folder)
    kept, report = read_counts(output()), read_results(output())
    assert (
        comparable(kept.results())["sem_seg", "mIoU"]
        == whole["sem_seg"]["mIoU"]
        == report["results"]["sem_seg"]["mIoU"]
    )
    assert kept.of.names == tuple(map(str, range(COUNT))) and kept.of.dataset == folder
    assert bytes(kept.pictures[3].tolist()).hex() == sha256(kept.of.files[3])
    stopped = ColourReader()
    stopped.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        evaluate_dataset(cfg, stopped, folder)
    cfg.TEST.RESUME = True
    evaluate_dataset(cfg, ColourReader(), folder)
    assert files_of(read_counts(output())) == files_of(kept)
    torch.multiprocessing.start_processes(_evaluate_share, (cfg, folder), nprocs=2, start_method="fork")
    assert files_of(read_counts(output())) == files_of(kept)
    assert read_results(output())["provenance"] == report["provenance"]


_HUNDREDS_OF_CLASSES = """
import sys
import numpy as np, torch
from PIL import Image
from maft.evaluation import SemanticEvaluator

def memory(entry):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(entry)))

imports = memory("VmRSS")
folder = sys.argv[1]
labels = np.arange(512 * 683, dtype=np.uint16).reshape(512, 683) % 847
Image.fromarray(labels).save(f"{folder}/labels.tif")
evaluator = SemanticEvaluator([str(index) for index in range(847)], 65535)
scores = torch.ones(847, 512, 683)
evaluator.process([{"sem_seg_file_name": f"{folder}/labels.tif"}], [{"sem_seg": scores}])
# Of this program alone: getrusage would count what the process that started it had in memory.
print(memory("VmHWM") - imports)
"""


def test_hundreds_of_classes_need_little_beside_their_scores(tmp_path):
    done = subprocess.run([sys.executable, "-c", _HUNDREDS_OF_CLASSES, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Kilobytes; the libraries, whose size is not ours, are not counted.
    scores = 847 * 512 * 683 * 4 / 1024
    assert int(done.stdout) < 1.2 * scores


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_one_sentence(cfg, folder, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    broken = f"{folder.removeprefix('folder:')}/images/3.png"
    with open(broken, "r+b") as file:
        file.truncate(60)
    with pytest.raises(UserError, match=r"3.png cannot be read") as error:
        evaluate(cfg, ColourReader())
    assert "\n" not in str(error.value)
