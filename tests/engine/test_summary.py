"""What a run says at its start is true of its model, data and solver."""

import torch
from detectron2.data import MetadataCatalog
from engine import tiny_run
from torch import nn

from maft.engine.summary import evaluation_summary, training_summary

IMAGES = {tiny_run.DATASET: 7, "miniature_val": 200, "miniature_train_seen": 40, "pairs:/a/pairs.tsv": 9}


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.clip = nn.Linear(1000, 1000, bias=False).requires_grad_(False)
        self.proposer = nn.Linear(10, 20)
        self.proposer.bias.requires_grad_(False)
        self.classifier = nn.Linear(3, 1)


def summary(tmp_path, *overrides, **options):
    MetadataCatalog.get(tiny_run.DATASET).set(stuff_classes=["a", "b", "c"])
    cfg = tiny_run.config(tmp_path, "DATASETS.TEST", ("miniature_val",), *overrides)
    text = training_summary(cfg, Parts(), IMAGES, samples=7, **options)
    return dict(line.strip().split("  ", 1) for line in text.splitlines()[1:] if line.strip())


def test_parts_data_batch_and_length_of_a_training(tmp_path):
    found = {name: text.strip() for name, text in summary(tmp_path, "SOLVER.ACCUMULATE", 2).items()}
    assert found == {
        "model": "Parts, 1 M parameters, 204 of them trainable",
        "clip": "ViT-B-16-quickgelu, 1 M, frozen",
        "proposer": "Mask2Former, 220, 200 trained",
        "classifier": "none, 4, trained",
        "trained on": f"{tiny_run.DATASET}: 7 images, 3 classes",
        "tested on": "miniature_val: 200 images, 24 classes (18 seen, 6 unseen)",
        "batch": "4 images = 1 process(es) x 2 micro-batch(es) x 2",
        "rate": "0.01 (SOLVER.BASE_LR), ADAMW, WarmupPolyLR",
        "length": "6 iterations = 3.43 epochs of 7",
        "device": "cpu, float32",
        "output": str(tmp_path),
    }


def test_seen_classes_pairs_and_mixed_precision(tmp_path):
    found = summary(tmp_path, "DATASETS.TRAIN", ("miniature_train_seen",), "SOLVER.AMP.ENABLED", True)
    assert found["trained on"].strip() == "miniature_train_seen: 40 images, 18 classes (the seen ones of 24)"
    assert found["device"].strip() == "cpu, float16"
    pairs = summary(tmp_path, "DATASETS.TRAIN", ("pairs:/a/pairs.tsv",))
    assert pairs["trained on"].strip() == "pairs:/a/pairs.tsv: 9 regions with their nouns"


def test_an_evaluation_says_what_runs_on_what(tmp_path):
    cfg = tiny_run.config(tmp_path, "DATASETS.TEST", ("miniature_val",))
    model = nn.Module()
    model.part = nn.Parameter(torch.zeros(3))
    lines = evaluation_summary(cfg, model, IMAGES).splitlines()
    assert lines[0] == "Evaluation:" and len(lines) == 5
    assert "3 parameters" in lines[1] and "miniature_val: 200 images" in lines[2]
