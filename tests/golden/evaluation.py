"""Recorded evaluators: semantic metrics of four releases, panoptic quality, COCO's average precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from torch import Tensor

from golden.case import GoldenCase, golden_case
from maft.evaluation.confusion import SemanticScores
from maft.evaluation.instance import InstanceEvaluator
from maft.evaluation.panoptic import PanopticEvaluator, qualities
from maft.evaluation.semantic import SemanticEvaluator


def annotation(identifier: int, image_id: int, category_id: int, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A ground-truth annotation in COCO's format from an (H, W) mask."""
    encoded = mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "id": identifier,
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "area": float(mask_api.area(encoded)),
        "bbox": mask_api.toBbox(encoded).tolist(),
        "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
    }


def _percent(value: float) -> Tensor:
    return torch.tensor(100 * value, dtype=torch.float64)


def _common(scores: SemanticScores, *, count_predicted: bool) -> dict[str, Tensor]:
    return {
        "mIoU": _percent(scores.mean_iou(count_predicted=count_predicted)),
        "fwIoU": _percent(scores.frequency_weighted_iou()),
        "mACC": _percent(scores.means()["mACC"]),
        "pACC": _percent(scores.means()["pACC"]),
    }


@golden_case("maft", "eval_metrics")
def eval_metrics(case: GoldenCase) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    for scenario, options in case.config["scenarios"].items():
        names = options["class_names"]
        seen = np.isin(np.arange(options["num_classes"]), options["seen"])
        evaluator = SemanticEvaluator(names, options["ignore_label"], seen=seen.tolist())
        for index in range(options["num_images"]):
            evaluator.add(case.inputs[f"{scenario}/pred_{index}"], case.inputs[f"{scenario}/gt_{index}"])
        outputs[f"{scenario}/confusion"] = evaluator.confusion.counts
        scores = SemanticScores.of(evaluator.confusion.counts)
        per_class = {f"IoU-{name}": _percent(value) for name, value in zip(names, scores.iou, strict=True)}
        per_class |= {f"ACC-{name}": _percent(value) for name, value in zip(names, scores.accuracy, strict=True)}
        current = _common(scores, count_predicted=False) | per_class
        earlier = _common(scores, count_predicted=True) | per_class
        results = evaluator.evaluate()["sem_seg"]
        base, other = results["seen_mIoU_or_predicted"], results["unseen_mIoU_or_predicted"]
        generalized = {
            "mIoU-base": base,
            "mIoU-unbase": other,
            "hIoU-base": results["harmonic_mIoU_or_predicted"],
            "pAcc-base": results["seen_pACC"],
            "pAcc-unbase": results["unseen_pACC"],
        }
        plain = {"seen_IoU": "seen", "unseen_IoU": "unseen", "harmonic mean": "harmonic"}
        plain_means = {
            name: torch.tensor(results[f"{part}_mIoU_of_all"], dtype=torch.float64) for name, part in plain.items()
        }
        evaluators = {
            "d2_main": current,
            "d2_v06": earlier,
            "maft_generalized": earlier
            | {name: torch.tensor(value, dtype=torch.float64) for name, value in generalized.items()},
            "maft_ex": earlier | plain_means,
        }
        for evaluator_name, values in evaluators.items():
            outputs |= {f"{scenario}/{evaluator_name}/{name}": value.reshape(1) for name, value in values.items()}
    return outputs


@golden_case("ovseg", "sem_seg_evaluator")
def ovseg_evaluator(case: GoldenCase) -> dict[str, Tensor]:
    options = case.config
    evaluator = SemanticEvaluator([f"c{index}" for index in range(options["num_classes"])], options["ignore"])
    for index in range(options["n_images"]):
        evaluator.add(case.inputs[f"sem_seg_{index}"].argmax(dim=0), case.inputs[f"gt_{index}"])
    values = _common(SemanticScores.of(evaluator.confusion.counts), count_predicted=True)
    return {"conf_matrix": evaluator.confusion.counts, "mIoU_fwIoU_mACC_pACC": torch.stack(list(values.values()))}


@golden_case("maskadapter", "semseg_evaluator")
def maskadapter_evaluator(case: GoldenCase) -> dict[str, Tensor]:
    options = case.config
    evaluator = SemanticEvaluator([str(index) for index in range(options["num_classes"])], options["ignore_label"])
    for index in range(sum(name.startswith("gt/") for name in case.inputs)):
        evaluator.add(case.inputs[f"sem_seg/{index}"].argmax(dim=0), case.inputs[f"gt/{index}"])
    counts = evaluator.confusion.counts
    scores = SemanticScores.of(counts)
    per_class = {"IoU": torch.from_numpy(100 * scores.iou), "ACC": torch.from_numpy(100 * scores.accuracy)}
    outputs = {"confusion": counts}
    for name, count_predicted in (("detectron2_main", False), ("maft", True)):
        values = _common(scores, count_predicted=count_predicted) | per_class
        outputs |= {f"{name}/{metric}": value for metric, value in values.items()}
    return outputs


@golden_case("maskadapter", "panoptic_quality")
def panoptic_quality(case: GoldenCase) -> dict[str, Tensor]:
    recorded = case.record["inputs_json"]
    categories = recorded["categories"]
    labels = {category["id"]: index for index, category in enumerate(categories)}
    evaluator = PanopticEvaluator(
        [category["name"] for category in categories], [bool(category["isthing"]) for category in categories]
    )
    for index, (truth, prediction) in enumerate(zip(recorded["gt"], recorded["pred"], strict=True)):
        true_segments, predicted_segments = (
            [{**segment, "category_id": labels[segment["category_id"]]} for segment in segments]
            for segments in (truth, prediction)
        )
        evaluator.add(case.inputs[f"gt/{index}"], true_segments, case.inputs[f"pred/{index}"], predicted_segments)
    results = evaluator.evaluate()["panoptic_seg"]
    outputs = {name: torch.tensor(value, dtype=torch.float64) for name, value in results.items() if "-" not in name}
    return outputs | {"per_class": torch.from_numpy(qualities(evaluator.table.numpy()))}


@golden_case("maskadapter", "instance_evaluator")
def instance_evaluator(case: GoldenCase) -> dict[str, Tensor]:
    inputs = {name: value.cpu() for name, value in case.inputs.items()}
    categories = case.config["thing_dataset_ids"]
    count = sum(name.startswith("gt_masks/") for name in inputs)
    sizes = [inputs[f"gt_masks/{index}"].shape[-2:] for index in range(count)]
    truth = {
        "images": [{"id": index, "height": size[0], "width": size[1]} for index, size in enumerate(sizes)],
        "categories": [{"id": identifier, "name": f"t{identifier}"} for identifier in categories],
        "annotations": [],
    }
    for index in range(count):
        for label, mask in zip(inputs[f"gt_classes/{index}"], inputs[f"gt_masks/{index}"], strict=True):
            number = len(truth["annotations"]) + 1
            truth["annotations"].append(annotation(number, index, categories[int(label)], mask.numpy()))
    evaluator = InstanceEvaluator(
        truth,
        dict(enumerate(categories)),
        {label: f"t{identifier}" for label, identifier in enumerate(categories)},
        tasks=("bbox", "segm"),
    )
    for index, size in enumerate(sizes):
        masks = inputs[f"pred_masks/{index}"]
        instances = Instances(
            (size[0], size[1]),
            pred_masks=masks,
            pred_classes=inputs[f"pred_classes/{index}"],
            scores=inputs[f"scores/{index}"],
            pred_boxes=Boxes(torch.zeros(len(masks), 4)),
        )
        evaluator.process([{"image_id": index}], [{"instances": instances}])
    results = evaluator.evaluate()
    return {
        f"{task}/{name}": torch.tensor(value, dtype=torch.float64)
        for task, values in results.items()
        for name, value in values.items()
    }
