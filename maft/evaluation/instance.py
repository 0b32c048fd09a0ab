"""Instance segmentation: COCO's average precision of masks, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from maft.data.catalog import DatasetRow
from maft.data.reading import Record, read_annotation
from maft.errors import UserError
from maft.evaluation.instance_truth import read_truth
from maft.exports.coco import encoded_masks, object_results

_SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class InstanceEvaluator(DatasetEvaluator):
    """Average precision over IoU 0.50 to 0.95, as COCO measures it.

    Args:
        truth: annotations in COCO's format, as read from its JSON: images, categories and annotations.
        category_ids: label index -> category id in ``truth``; label indices need not be contiguous.
        class_names: label index -> name.
        tasks: "segm" (masks) and "bbox".
        images: ids of the images that are evaluated; None: all of ``truth``.
        source: the file of the annotations, for messages.

    Raises:
        UserError: the annotations are not in COCO's format, or are of other images or classes.

    The result is the same in every process; `evaluate` has to be called by all of them.
    """

    def __init__(
        self,
        truth: Mapping[str, Any],
        category_ids: Mapping[int, int],
        class_names: Mapping[int, str],
        *,
        tasks: Sequence[str] = ("segm",),
        images: Collection[Any] | None = None,
        source: str = "the instance annotation",
    ) -> None:
        names = {category_ids[label]: name for label, name in class_names.items()}
        self.truth = _coco(read_truth(truth, names, images, source))
        self.category_ids = dict(category_ids)
        self.class_names = dict(class_names)
        self.tasks = tuple(tasks)
        self.source = source
        self.reset()

    @classmethod
    def of_dataset(cls, row: DatasetRow, images: Collection[Any]) -> InstanceEvaluator:
        """The evaluator of these images of a dataset of the catalogue."""
        file = row.root / row.instances_json
        if not file.is_file():
            raise UserError(f"Dataset {row.name} has no instance annotation {file}: see datasets/README.md.")
        names = row.classes.names()
        return cls(
            read_annotation(file),
            {label: row.classes.category_ids[label] for label in row.classes.things},
            {label: names[label] for label in row.classes.things},
            images=images,
            source=str(file),
        )

    def reset(self) -> None:
        self.predictions: list[dict[str, Any]] = []

    def process(self, records: list[Record], outputs: list[dict[str, Any]]) -> None:
        """Collects a batch.

        Args:
            records: with ``"image_id"``.
            outputs: dicts with ``"instances"``: ``pred_masks`` (n, H, W), ``scores`` (n,) and ``pred_classes`` (n,),
                label indices, of which those that are no category are left out.

        Raises:
            UserError: an image has another size in the annotations.
        """
        for record, output in zip(records, outputs, strict=True):
            instances = output["instances"].to("cpu")
            stated = self.truth.imgs[record["image_id"]]
            if tuple(instances.image_size) != (size := (stated["height"], stated["width"])):
                raise UserError(
                    f"The instances predicted for image {record['image_id']!r} are {_shown(instances.image_size)}, "
                    f"but {self.source} says {_shown(size)}: it is of other images."
                )
            labels = instances.pred_classes.tolist()
            kept = [place for place, label in enumerate(labels) if label in self.category_ids]
            self.predictions += object_results(
                encoded_masks(instances.pred_masks[kept].numpy().astype(bool)),
                [self.category_ids[labels[place]] for place in kept],
                instances.scores[kept].tolist(),
                record["image_id"],
                instances.pred_boxes.tensor[kept].numpy() if instances.has("pred_boxes") else None,
            )

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Percentages under each task: AP, AP50, AP75, APs, APm, APl and ``AP-<class>``; NaN without ground truth."""
        self.predictions = list(itertools.chain(*comm.all_gather(self.predictions)))
        return {task: self._evaluate(task) for task in self.tasks}

    def _evaluate(self, task: str) -> dict[str, float]:
        # COCO derives an area from the box wherever there is one, which would change what counts as a small mask.
        found = [{k: v for k, v in p.items() if task == "bbox" or k != "bbox"} for p in self.predictions]
        with contextlib.redirect_stdout(io.StringIO()):
            # COCO's own reader of predictions needs at least one.
            predicted = self.truth.loadRes(found) if found else _coco({**self.truth.dataset, "annotations": []})
            measured = COCOeval(self.truth, predicted, task)
            measured.evaluate()
            measured.accumulate()
            measured.summarize()
        results = {name: _percent(value) for name, value in zip(_SUMMARY, measured.stats[:6, None], strict=True)}
        # (IoU thresholds, recalls, categories, areas, detections): all areas, the largest number of detections.
        precision = measured.eval["precision"][:, :, :, 0, -1]
        columns = {category: place for place, category in enumerate(measured.params.catIds)}
        for label, category in self.category_ids.items():
            results[f"AP-{self.class_names[label]}"] = _percent(precision[:, :, columns[category]])
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


def _shown(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _percent(values: NDArray[np.float64]) -> float:
    # COCO writes -1 where there is nothing to measure.
    valid = values[values > -1]
    return 100 * float(valid.mean()) if len(valid) else float("nan")
