"""Recorded training and evaluation of MaskCLIP++: mask accuracy, the semantic evaluator, the loss and the mappers."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from golden.case import GoldenCase, golden_case
from golden.data import mapped
from maft.data.augmentations import Step, large_scale_jitter, shortest_edge_augmentations
from maft.data.mappers import NO_SEGMENT
from maft.data.reading import panoptic_colours
from maft.evaluation import MaskAccuracyEvaluator, SemanticEvaluator
from maft.evaluation.confusion import SemanticScores
from maft.evaluation.mask_accuracy import true_masks
from maft.losses.balanced_cross_entropy import balanced_cross_entropy
from maft.structures import Classification, Images


def _double(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _evaluator(kind: type[SemanticEvaluator], config: Mapping[str, Any], **options: Any) -> Any:
    classes = config["num_classes"]
    seen = [bool(flag) for flag in config["seen"]]
    return kind([str(index) for index in range(classes)], config["ignore_label"], seen=seen, **options)


class _Namer:
    """Stands for a model whose classifier gives the recorded names."""

    device = torch.device("cpu")

    def __init__(self, classes: int) -> None:
        self.classes, self.names = classes, torch.tensor([0])

    def padded(self, records: list[dict[str, Any]]) -> Images:
        return Images.from_list([record["image"] for record in records])

    def classify(self, images: Images, proposals: Any) -> Classification:
        assert proposals.masks.shape[1] == len(self.names)
        return Classification(torch.nn.functional.one_hot(self.names, self.classes)[None].float())


@golden_case("maskclippp", "mask_accuracy")
def mask_accuracy(case: GoldenCase) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    inputs, config = {name: value.cpu() for name, value in case.inputs.items()}, case.config
    namer = _Namer(config["num_classes"])
    whole, segments = (
        _evaluator(MaskAccuracyEvaluator, config, model=namer, panoptic=panoptic) for panoptic in (False, True)
    )
    with tempfile.TemporaryDirectory() as folder:
        for index in range(sum(name.startswith("gt/") for name in inputs)):
            labels = inputs[f"gt/{index}"]
            record: dict[str, Any] = {"file_name": "image", "image": torch.zeros(3, *labels.shape, dtype=torch.uint8)}
            record["sem_seg_file_name"] = str(Path(folder, "labels.png"))
            Image.fromarray(labels.numpy()).save(record["sem_seg_file_name"])
            # Of the panoptic maps nothing but their segments is recorded.
            record["segments_info"] = case.record["inputs_json"]["segments_info"][index]
            record["pan_seg_file_name"] = str(Path(folder, "panoptic.png"))
            ids = np.array([[segment["id"] for segment in record["segments_info"]]])
            Image.fromarray(panoptic_colours(ids)).save(record["pan_seg_file_name"])
            for evaluator, predicted in ((whole, "pred"), (segments, "pan_pred")):
                namer.names = inputs[f"{predicted}/{index}"]
                evaluator.process([record], [{}])
            values = labels.unique()
            values = values[values != config["ignore_label"]]
            size = (labels.shape[0], labels.shape[1])
            outputs[f"gt_classes/{index}"] = values.long()
            outputs[f"gt_mask_areas/{index}"] = true_masks(labels, values, size).sum((1, 2))
    for prefix, evaluator, task in (("", whole, "mask_accuracy"), ("pan/", segments, "panoptic_mask_accuracy")):
        results = evaluator.evaluate()[task]
        outputs[f"{prefix}confusion"] = evaluator.confusion.counts
        accuracies = [results[f"MaskAcc-{index}"] for index in range(config["num_classes"])]
        outputs[f"{prefix}MaskAcc"] = _double(accuracies)
        outputs |= _split(results, prefix, "mMaskAcc")
    return outputs


def _split(results: Mapping[str, float], prefix: str, metric: str) -> dict[str, Tensor]:
    """A mean over all classes, the seen and the unseen ones, by the official names; NaN where there is no split."""
    parts = {"": "", "(S)": "seen_", "(U)": "unseen_"}
    nan = float("nan")
    return {f"{prefix}{metric}{end}": _double(results.get(begin + metric, nan)) for end, begin in parts.items()}


@golden_case("maskclippp", "semseg_evaluator")
def semantic_evaluator(case: GoldenCase) -> dict[str, Tensor]:
    evaluator = _evaluator(SemanticEvaluator, case.config)
    for index in range(sum(name.startswith("gt/") for name in case.inputs)):
        evaluator.add(case.inputs[f"sem_seg/{index}"].argmax(0), case.inputs[f"gt/{index}"])
    results = evaluator.evaluate()["sem_seg"]
    scores = SemanticScores.of(evaluator.confusion.counts)
    outputs = {name: _double(results[name]) for name in ("fwIoU", "mACC", "pACC")}
    outputs |= {"IoU": _double(100 * scores.iou), "ACC": _double(100 * scores.accuracy)}
    return outputs | {"confusion": evaluator.confusion.counts} | _split(results, "", "mIoU")


@golden_case("maskclippp", "reweight_ce_loss")
def reweighted_cross_entropy(case: GoldenCase) -> dict[str, Tensor]:
    inputs, outputs = case.inputs, {}
    for number, variant in enumerate(case.config["variants"]):
        corrs = inputs["corrs"].clone().requires_grad_()
        kept = inputs["areas"] > 0 if variant["IGNORE_EMPTY"] else torch.ones_like(inputs["areas"], dtype=torch.bool)
        loss = balanced_cross_entropy(
            corrs[kept] / variant["TEMPERATURE"],
            inputs["labels"][kept],
            inputs["mask2batch"][kept],
            balance_classes=variant["BALANCE_CLS"],
        )
        (outputs[f"grad/corrs/{number}"],) = torch.autograd.grad(loss, corrs)
        outputs[f"loss/{number}"] = loss
    return outputs


@golden_case("maskclippp", "mapper_semantic")
def semantic_mapper(case: GoldenCase) -> dict[str, Tensor]:
    options = case.config
    steps = shortest_edge_augmentations(
        options["MIN_SIZE_TRAIN"],
        options["MAX_SIZE_TRAIN"],
        sampling=options["MIN_SIZE_TRAIN_SAMPLING"],
        crop_size=options["CROP_SIZE"],
        single_category_max_area=options["SINGLE_CATEGORY_MAX_AREA"],
        ignore_label=options["ignore_label"],
        color=options["FORMAT"] if options["COLOR_AUG_SSD"] else "",
        flip="horizontal",
    )
    labels = case.inputs["sem_seg"]
    classes = int(labels[labels != options["ignore_label"]].max()) + 1
    return _drawn(case, steps, labels, targets="semantic", num_classes=classes, label_resize="torch")


@golden_case("maskclippp", "mapper_coco_panoptic")
def panoptic_mapper(case: GoldenCase) -> dict[str, Tensor]:
    options, segments = case.config, case.record["inputs_json"]["segments_info"]
    steps = large_scale_jitter(
        options["IMAGE_SIZE"],
        (options["MIN_SCALE"], options["MAX_SCALE"]),
        padding_label=NO_SEGMENT,
        color=options["FORMAT"] if options["COLOR_AUG_SSD"] else "",
        flip=options["RANDOM_FLIP"],
    )
    ids = case.inputs["panoptic_ids"].cpu()
    # The recorded map has pixels of an unlisted segment, which our mapper refuses and the official one skips.
    listed = torch.isin(ids, torch.tensor([segment["id"] for segment in segments]))
    return _drawn(
        case, steps, ids * listed, targets="panoptic", segments_info=segments, label_resize="pillow",
        num_classes=max(segment["category_id"] for segment in segments) + 1,
    )  # fmt: skip


def _drawn(case: GoldenCase, steps: list[Step], labels: Tensor, **options: Any) -> dict[str, Tensor]:
    """What our mapper makes of the image with each recorded seed."""
    outputs: dict[str, Tensor] = {}
    for number, seed in enumerate(case.config["seeds"]):
        random.seed(seed)
        np.random.seed(seed)
        record = mapped(case.inputs["image"], labels, steps, **options)
        instances = record["instances"]
        outputs |= {f"{number}/image": record["image"], f"{number}/classes": instances.gt_classes}
        outputs[f"{number}/masks"] = instances.gt_masks
        if options["targets"] == "semantic":
            outputs[f"{number}/sem_seg"] = record["sem_seg"]
    return outputs
