"""Mask accuracy: the names of true masks, by every kind of classifier, against definitions and through whole runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image

from maft.building import build_model
from maft.config import load_config
from maft.data.catalog import class_names, dataset
from maft.data.reading import panoptic_colours
from maft.errors import UserError
from maft.evaluation import MaskAccuracyEvaluator, check_evaluation, evaluate, mask_accuracy
from maft.evaluation.evaluators import chosen_evaluators
from maft.evaluation.mask_accuracy import mask_accuracy_evaluators, true_masks
from maft.evaluation.report import write_per_class
from maft.miniature import materialise
from maft.structures import Classification, Images

QUICKSTART = Path(__file__).resolve().parent.parent.parent / "configs" / "quickstart"
NAMES = ["a", "b", "c", "d"]
# One-word samples: the red channel of an image is ten times its label.
LABELS = [[[0, 0, 1, 1], [2, 2, 255, 1]], [[1, 1, 1, 1], [1, 1, 3, 3]], [[0, 0, 0, 0], [0, 0, 0, 255]]]


class Reader:
    """Stands for a model whose classifier reads the name of a mask in the colour under it, with a blind spot."""

    device = torch.device("cpu")

    def __init__(self, wrong=(), blind=()):
        self.wrong, self.blind = list(wrong), list(blind)

    def padded(self, records):
        return Images.from_list([record["image"] for record in records])

    def classify(self, images, proposals):
        masks = proposals.probabilities(images.padded_size)
        red = (images.pixels[:, :1] * masks).sum((2, 3)) / masks.sum((2, 3))
        names = (red / 10).round().long()
        valid = ~torch.isin(names, torch.tensor(self.blind, dtype=torch.long))
        names = torch.where(torch.isin(names, torch.tensor(self.wrong, dtype=torch.long)), (names + 1) % 4, names)
        logits = F.one_hot(names, 5).float()
        logits[..., 4] = 9  # void takes no part
        return Classification(logits, valid=valid, has_void=True)


@pytest.fixture
def records(tmp_path):
    """Three images of half the size of their label maps; panoptic maps have one more segment of b."""
    made = []
    for index, rows in enumerate(LABELS):
        labels = np.array(rows, dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        Image.fromarray(labels).save(tmp_path / f"{index}.png")
        ids = np.where(labels == 255, 0, labels.astype(np.int64) + 7)
        segments = [
            {"id": int(one), "category_id": int(one) - 7, "iscrowd": int(one == 7)} for one in np.unique(ids) if one
        ]
        ids[(labels == 1) & (np.arange(labels.shape[1]) >= 24)] = 5000
        segments += [{"id": 5000, "category_id": 1, "iscrowd": 0}, {"id": 6000, "category_id": 2, "iscrowd": 0}]
        Image.fromarray(panoptic_colours(ids)).save(tmp_path / f"{index}_panoptic.png")
        image = torch.from_numpy(np.where(labels == 255, 0, labels)[::2, ::2].astype(np.float32) * 10).expand(3, -1, -1)
        made.append({
            "file_name": f"{index}.jpg", "image": image, "sem_seg_file_name": str(tmp_path / f"{index}.png"),
            "pan_seg_file_name": str(tmp_path / f"{index}_panoptic.png"), "segments_info": segments,
        })  # fmt: skip
    return made


def measured(model, records, **options):
    evaluator = MaskAccuracyEvaluator(NAMES, 255, model=model, **options)
    for record in records:
        evaluator.process([record], [{}])
    return evaluator


def test_every_mask_counts_once_and_every_class_the_same(records):
    right = measured(Reader(), records).evaluate()["mask_accuracy"]
    assert right["mMaskAcc"] == right["MaskAcc"] == 100
    # Six masks: a and b in two images each, c and d in one.
    results = measured(Reader(wrong=[1]), records).evaluate()["mask_accuracy"]
    assert results["mMaskAcc"] == pytest.approx(100 * 3 / 4) and results["MaskAcc"] == pytest.approx(100 * 4 / 6)
    assert results["MaskAcc-b"] == 0 and results["MaskAcc-a"] == 100


def test_a_mask_that_the_classifier_cannot_see_is_wrong(records):
    results = measured(Reader(blind=[0]), records).evaluate()["mask_accuracy"]
    assert results["MaskAcc-a"] == 0 and results["MaskAcc"] == pytest.approx(100 * 4 / 6)


def test_segments_of_a_panoptic_map_count_one_by_one(records):
    results = measured(Reader(wrong=[1]), records, panoptic=True).evaluate()["panoptic_mask_accuracy"]
    # The two images with b have a second segment of it; no pixel shows segment 6000.
    assert results["MaskAcc"] == pytest.approx(100 * 4 / 8) and results["MaskAcc-c"] == 100


def test_seen_and_unseen_classes(records):
    seen = [True, True, False, False]
    results = measured(Reader(wrong=[1]), records, seen=seen).evaluate()["mask_accuracy"]
    assert results["seen_mMaskAcc"] == 50 and results["unseen_mMaskAcc"] == 100
    assert results["harmonic_mMaskAcc"] == pytest.approx(2 * 50 * 100 / 150)


def test_counts_can_be_continued(records):
    whole = measured(Reader(wrong=[1]), records)
    first, second = measured(Reader(wrong=[1]), records[:1]), MaskAccuracyEvaluator(NAMES, 255, model=Reader(wrong=[1]))
    second.load_state(first.state())
    for record in records[1:]:
        second.process([record], [{}])
    assert torch.equal(second.confusion.counts, whole.confusion.counts)


def _measure_share(rank, records, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    # Two images here, one there.
    results = measured(Reader(wrong=[1], blind=[0]), records[rank::2], panoptic=True).evaluate()
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def test_two_processes_give_the_numbers_of_one(records, tmp_path):
    torch.multiprocessing.start_processes(_measure_share, (records, tmp_path), nprocs=2, start_method="fork")
    whole = measured(Reader(wrong=[1], blind=[0]), records, panoptic=True).evaluate()
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [whole, whole]


def test_an_image_without_labels_is_left_out(records):
    Image.fromarray(np.full((16, 32), 255, dtype=np.uint8)).save(records[0]["sem_seg_file_name"])
    assert measured(Reader(), records[:1]).confusion.counts.sum() == 0


def test_few_masks_are_resized_at_a_time_and_cover_the_image_together(monkeypatch):
    labels = torch.arange(60).reshape(6, 10) % 7
    whole = true_masks(labels, torch.arange(7), (9, 13))
    assert torch.allclose(whole.sum(0), torch.ones(9, 13)) and whole.shape == (7, 9, 13)
    monkeypatch.setattr(mask_accuracy, "_MOST_ELEMENTS", 100)
    assert torch.equal(true_masks(labels, torch.arange(7), (9, 13)), whole)


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    materialise(tmp_path / "miniature", "val", 4)

    def load(name, *overrides):
        cfg = load_config(QUICKSTART / name, ["TEST.MASK_ACCURACY", "True", "MODEL.DEVICE", "cpu", *overrides])
        cfg.defrost()
        cfg.OUTPUT_DIR = str(tmp_path / "out")
        return cfg

    return load


@pytest.mark.parametrize("name", ["frozen_clip.yaml", "mask_pooling.yaml", "masked_crops.yaml"])
def test_frozen_classifiers_name_true_masks(cfg, name, tmp_path):
    cfg = cfg(name, "MODEL.PROPOSER.NAME", "GroundTruth", "MODEL.START_FROM", "[]")
    results = evaluate(cfg, build_model(cfg).eval())["miniature_val"]
    # Chance is 1 in 24.
    assert results["mask_accuracy"]["MaskAcc"] > 25
    assert {"mMaskAcc", "seen_mMaskAcc", "unseen_mMaskAcc"} <= set(results["mask_accuracy"])
    written = json.loads((tmp_path / "out/inference/miniature_val/results.json").read_text())
    assert written["results"]["mask_accuracy"]["mMaskAcc"] == results["mask_accuracy"]["mMaskAcc"]
    assert "MaskAcc" in (tmp_path / "out/inference/miniature_val/per_class.csv").read_text().splitlines()[0].split(",")


def test_panoptic_results_add_the_segments(cfg, tmp_path):
    row = dataset("openvocab_ade20k_panoptic_val")
    kinds = chosen_evaluators(cfg("frozen_clip.yaml", "MODEL.INFERENCE.PANOPTIC", "True"), row)
    evaluators = mask_accuracy_evaluators(cfg("frozen_clip.yaml"), row, Reader(), [], kinds)
    results = {task: values for one in evaluators.values() for task, values in one.evaluate().items()}
    assert set(results) == {"mask_accuracy", "panoptic_mask_accuracy"}
    write_per_class(tmp_path / "per_class.csv", results, [{"name": name} for name in class_names(row.name)])
    header = (tmp_path / "per_class.csv").read_text().splitlines()[0].split(",")
    assert header == ["name", "mask_accuracy/MaskAcc", "panoptic_mask_accuracy/MaskAcc"]


def test_what_cannot_be_measured_is_said_before_a_model_is_built(cfg):
    def refused(*overrides, name="miniature_val"):
        with pytest.raises(UserError) as error:
            check_evaluation(cfg("frozen_clip.yaml", *overrides), [name])
        return str(error.value)

    assert "set MODEL.CLASSIFIER.NAME" in refused("MODEL.CLASSIFIER.NAME", "none")
    assert "TEST.AUG.ENABLED" in refused("TEST.AUG.ENABLED", "True")
    assert "TEST.SLIDING_WINDOW.ENABLED" in refused("TEST.SLIDING_WINDOW.ENABLED", "True")
    alone = ["MODEL.INFERENCE.SEMANTIC", "False", "MODEL.INFERENCE.INSTANCE", "True"]
    assert "is measured by instance alone" in refused(*alone, name="openvocab_ade20k_panoptic_val")
