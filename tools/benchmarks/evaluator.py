"""The semantic evaluator against Detectron2's, with as many classes as ADE20K-full has."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image
from torch import Tensor

from benchmarks.inputs import random_mask_logits
from benchmarks.measure import Comparison, Form, compare
from maft.data.reading import read_labels
from maft.evaluation.semantic import SemanticEvaluator
from maft.inference import semantic_result
from maft.layers.score_maps import Tile, View

_IGNORED = 65535
_DATASET = "maft_benchmark_evaluator"


@torch.no_grad()
def run(
    device: torch.device,
    repeats: int,
    *,
    classes: int = 847,
    size: tuple[int, int] = (512, 683),
    queries: int = 100,
) -> list[Comparison]:
    """One image: from masks and class probabilities to counts, and the evaluators alone."""
    draws = torch.Generator().manual_seed(0)
    masks = random_mask_logits(queries, size).sigmoid().to(device)
    probabilities = (6 * torch.randn(queries, classes, generator=draws)).softmax(-1).to(device)
    # Labels that agree with the prediction in most places, as those of a real image do; some are ignored.
    view = View(size, [(False, [Tile(probabilities, masks, size, 0, 0, *size, are_logits=False)])])

    def result(labels_only: bool) -> dict[str, Any]:
        return semantic_result([view], size, None, labels_only=labels_only)

    labels = result(labels_only=True)["sem_seg_labels"]
    wrong = torch.rand(size, generator=draws) < 0.3
    truth = torch.where(wrong, torch.randint(classes, size, generator=draws), labels.cpu())
    truth[: size[0] // 20] = _IGNORED
    setting = f"{classes} classes, {size[0]}x{size[1]}, {queries} proposals"

    with tempfile.TemporaryDirectory() as folder:
        entry = {"file_name": "image.png", "sem_seg_file_name": str(Path(folder) / "labels.png")}
        Image.fromarray(truth.numpy().astype(np.uint16)).save(entry["sem_seg_file_name"])
        ours, keeping, theirs = _ours(classes, entry), _ours(classes, entry, keep=True), _detectron2(classes, entry)
        comparisons = [
            compare(
                "evaluator",
                f"from masks, {setting}",
                [
                    Form(
                        "label map, confusion matrix on the device",
                        lambda: ours(result(labels_only=True)),
                    ),
                    Form(
                        "score map, Detectron2's SemSegEvaluator",
                        lambda: theirs(result(labels_only=False)),
                        tolerance=0,
                    ),
                ],
                device,
                repeats,
            )
        ]
        scores = result(labels_only=False)["sem_seg"]
        comparisons.append(
            compare(
                "evaluator",
                f"alone, {setting}",
                [
                    Form("given a label map, as the model makes it", lambda: ours({"sem_seg_labels": labels})),
                    Form(
                        "and keeping the counts of the image", lambda: keeping({"sem_seg_labels": labels}), tolerance=0
                    ),
                    Form("given a score map", lambda: ours({"sem_seg": scores}), tolerance=0),
                    Form("Detectron2's, given a score map", lambda: theirs({"sem_seg": scores}), tolerance=0),
                ],
                device,
                repeats,
            )
        )
    return comparisons


def _ours(classes: int, entry: dict[str, str], keep: bool = False) -> Callable[[dict[str, Any]], Tensor]:
    images = [entry["file_name"]] if keep else []
    evaluator = SemanticEvaluator([f"class {index}" for index in range(classes)], _IGNORED, images=images)

    def count(output: dict[str, Any]) -> Tensor:
        evaluator.reset()
        evaluator.process([entry], [output])
        return evaluator.confusion.counts.cpu()

    return count


def _detectron2(classes: int, entry: dict[str, str]) -> Callable[[dict[str, Any]], Tensor]:
    if _DATASET not in DatasetCatalog:
        DatasetCatalog.register(_DATASET, lambda: [])
    DatasetCatalog.remove(_DATASET)
    DatasetCatalog.register(_DATASET, lambda: [entry])
    MetadataCatalog.pop(_DATASET, None)
    MetadataCatalog.get(_DATASET).set(
        stuff_classes=[f"class {index}" for index in range(classes)], ignore_label=_IGNORED
    )
    logging.getLogger("detectron2.evaluation.sem_seg_evaluation").setLevel(logging.ERROR)
    evaluator = SemSegEvaluator(
        _DATASET,
        distributed=False,
        # Its own reader asks NumPy for a copy=False that NumPy 2 refuses.
        sem_seg_loading_fn=lambda path, dtype: read_labels(path).astype(dtype),
    )

    def count(output: dict[str, Any]) -> Tensor:
        evaluator.reset()
        evaluator.process([entry], [output])
        return torch.from_numpy(evaluator._conf_matrix)

    return count
