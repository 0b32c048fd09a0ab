"""Instance segmentation: COCO's average precision of masks, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from maft.data.reading import Record

_SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class InstanceEvaluator(DatasetEvaluator):
    """Average precision over IoU 0.50 to 0.95, as COCO measures it.

    Args:
        truth: annotations in COCO's format, as read from its JSON: images, categories and annotations.
        category_ids: label index -> category id in ``truth``; label indices need not be contiguous.
        class_names: label index -> name.
        tasks: "segm" (masks) and, where predictions have boxes, "bbox".

    The result is the same in every process; `evaluate` has to be called by all of them.
    """

    def __init__(
        self,
        truth: Mapping[str, Any],
        category_ids: Mapping[int, int],
        class_names: Mapping[int, str],
        *,
        tasks: Sequence[str] = ("segm",),
    ) -> None:
        self.truth = _coco(truth)
        self.category_ids = dict(category_ids)
        self.class_names = dict(class_names)
        self.tasks = tuple(tasks)
        self.reset()

    def reset(self) -> None:
        self.predictions: list[dict[str, Any]] = []

    def process(self, records: list[Record], outputs: list[dict[str, Any]]) -> None:
        """Collects a batch.

        Args:
            records: with ``"image_id"``.
            outputs: dicts with ``"instances"``: Instances with ``pred_masks`` (n, H, W), ``pred_classes`` (n,) label
                indices, ``scores`` (n,), for the task "bbox" also ``pred_boxes``. Other classes are left out.
        """
        for record, output in zip(records, outputs, strict=True):
            instances = output["instances"].to("cpu")
            classes = instances.pred_classes.tolist()
            kept = [place for place, label in enumerate(classes) if label in self.category_ids]
            masks = np.asarray(instances.pred_masks[kept], dtype=np.uint8)
            encoded = mask_api.encode(np.asfortranarray(masks.transpose(1, 2, 0))) if kept else []
            for place, mask in zip(kept, encoded, strict=True):
                prediction = {
                    "image_id": record["image_id"],
                    "category_id": self.category_ids[classes[place]],
                    "score": float(instances.scores[place]),
                    "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
                }
                if "bbox" in self.tasks:
                    left, top, right, bottom = instances.pred_boxes.tensor[place].tolist()
                    prediction["bbox"] = [left, top, right - left, bottom - top]
                self.predictions.append(prediction)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Percentages under each task: AP, AP50, AP75, APs, APm, APl and ``AP-<class>``; NaN without ground truth."""
        self.predictions = list(itertools.chain(*comm.all_gather(self.predictions)))
        return {task: self._evaluate(task) for task in self.tasks}

    def _evaluate(self, task: str) -> dict[str, float]:
        names = [self.class_names[label] for label in self.category_ids]
        if not self.predictions:
            return dict.fromkeys((*_SUMMARY, *(f"AP-{name}" for name in names)), 0.0)
        # COCO derives an area from the box wherever there is one, which would change what counts as a small mask.
        found = [{k: v for k, v in p.items() if task == "bbox" or k != "bbox"} for p in self.predictions]
        with contextlib.redirect_stdout(io.StringIO()):
            measured = COCOeval(self.truth, self.truth.loadRes(found), task)
            measured.evaluate()
            measured.accumulate()
            measured.summarize()
        results = {name: _percent(value) for name, value in zip(_SUMMARY, measured.stats[:6], strict=True)}
        # (IoU thresholds, recalls, categories, areas, detections): all areas, the largest number of detections.
        precision = measured.eval["precision"][:, :, :, 0, -1]
        columns = {category: place for place, category in enumerate(measured.params.catIds)}
        for label, category in self.category_ids.items():
            results[f"AP-{self.class_names[label]}"] = _mean_precision(precision[:, :, columns[category]])
        return results

    def state(self) -> dict[str, Tensor]:
        """What this process has collected so far."""
        return {"predictions": torch.tensor(list(json.dumps(self.predictions).encode()), dtype=torch.uint8)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continues from the `state` of an earlier run."""
        self.predictions = json.loads(bytes(state["predictions"].numpy()))


def _coco(truth: Mapping[str, Any]) -> COCO:
    # COCO's constructor takes a file name only, and its index prints.
    coco = COCO()
    coco.dataset = {"info": {}, **truth}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _mean_precision(precision: NDArray[np.float64]) -> float:
    valid = precision[precision > -1]
    return 100 * float(valid.mean()) if len(valid) else float("nan")


def _percent(value: float) -> float:
    return 100 * float(value) if value >= 0 else float("nan")
