"""Panoptic quality (Kirillov et al., CVPR 2019), by the rule of COCO's evaluation for areas, void and crowds.

COCO's own code (panopticapi) compares files on disk; this is the same metric on arrays, counted image by image, so
that nothing is written and processes add up small tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from numpy.typing import NDArray
from torch import Tensor

from maft.data.reading import Record, read_panoptic_ids
from maft.errors import UserError
from maft.evaluation.confusion import sum_over_processes
from maft.evaluation.image_rows import ImageRows

# Of each image and class with a segment in it, what the rows of the table sum up.
_COLUMNS = {
    "class": torch.int32,
    "iou": torch.float64,
    "true_positives": torch.int32,
    "false_positives": torch.int32,
    "false_negatives": torch.int32,
}


class PanopticEvaluator(DatasetEvaluator):
    """Panoptic, segmentation and recognition quality over all classes, things and stuff.

    Args:
        class_names: of the dataset, in label order.
        things: (C,) which classes are countable.
        rule: ``"panopticapi"``: a true segment has the ``area`` that its annotation states (where it states one), even
            where others cover it, and of several crowds of one class in an image only the last excuses predictions.
            ``"pixels"``: areas are those of the map, and every crowd excuses.
        images: file names of all images; with them the numbers of each image are kept in ``rows``, too.

    Attributes:
        table: (4, C) float64: sum of the IoUs of matches, true positives, false positives and false negatives.
        rows: columns ``class``, ``iou``, ``true_positives``, ``false_positives`` and ``false_negatives``, of the
            classes of each image that have any; their sum over the images is ``table``.
        task: what the results stand under.
    """

    task = "panoptic_seg"

    def __init__(
        self,
        class_names: Sequence[str],
        things: Sequence[bool],
        *,
        rule: Literal["panopticapi", "pixels"] = "panopticapi",
        images: Sequence[str] = (),
    ) -> None:
        self.class_names = tuple(class_names)
        self.things = np.array(things, dtype=bool)
        self.rule = rule
        self.rows = ImageRows(_COLUMNS, images)
        self.reset()

    def reset(self) -> None:
        self.rows.reset()
        self.table = torch.zeros(4, len(self.class_names), dtype=torch.float64)

    def process(self, records: list[Record], outputs: list[dict[str, Any]]) -> None:
        """Counts a batch.

        Args:
            records: with ``"pan_seg_file_name"`` and ``"segments_info"`` (label indices).
            outputs: dicts with ``"panoptic_seg"``: (H, W) segment ids, 0 for none, and a list of segments with ``id``
                and ``category_id`` (label index).
        """
        for record, output in zip(records, outputs, strict=True):
            path = record["pan_seg_file_name"]
            truth = torch.from_numpy(read_panoptic_ids(path))
            prediction, segments = output["panoptic_seg"]
            if prediction.shape != truth.shape:
                raise UserError(f"The panoptic prediction for {record['file_name']} and {path} differ in size.")
            self.add(truth, record["segments_info"], prediction, segments, record["file_name"])

    def add(
        self,
        truth: Tensor,
        true_segments: Sequence[dict[str, Any]],
        prediction: Tensor,
        predicted_segments: Sequence[dict[str, Any]],
        image: str = "",
    ) -> None:
        """Counts one image (its file name is one of ``images``): (H, W) segment ids and what they mean; 0 is void.

        A match has IoU > 0.5. Crowds (groups) are never matched and never missed. A true segment without a pixel, which
        later ones cover entirely, is missed.
        """
        height, width = len(true_segments) + 1, len(predicted_segments) + 1
        truth = truth.to(prediction.device)
        rows, columns = _positions(truth, true_segments), _positions(prediction, predicted_segments)
        unlisted = truth.flatten()[(rows == 0) & (truth.flatten() != 0)]
        if len(unlisted):
            raise UserError(
                f"A panoptic map holds segment {int(unlisted[0])}, which its annotation does not list: download or "
                "prepare both again."
            )
        # (n + 1, m + 1) pixels shared by each true and predicted segment, row and column 0 for void.
        overlaps = torch.bincount(rows * width + columns, minlength=height * width).view(height, width).cpu().numpy()
        crowd = np.array([bool(segment.get("iscrowd", 0)) for segment in true_segments], dtype=bool)
        true_classes = np.array([segment["category_id"] for segment in true_segments], dtype=np.int64)
        predicted_classes = np.array([segment["category_id"] for segment in predicted_segments], dtype=np.int64)

        counts = np.zeros(self.table.shape)
        shared = overlaps[1:, 1:].astype(np.float64)
        true_area = overlaps[1:].sum(axis=1, keepdims=True)
        predicted_area = overlaps[:, 1:].sum(axis=0)
        in_void = overlaps[0, 1:]
        excuses = crowd
        if self.rule == "panopticapi":
            stated = np.array([segment.get("area", np.nan) for segment in true_segments], dtype=np.float64)
            true_area = np.where(np.isnan(stated), true_area[:, 0], stated)[:, None]
            excuses = crowd & _is_last(np.where(crowd, true_classes, -1))
        with np.errstate(divide="ignore", invalid="ignore"):
            iou = shared / (true_area + predicted_area - shared - in_void)
        same_class = true_classes[:, None] == predicted_classes
        match = same_class & ~crowd[:, None] & (iou > 0.5)
        np.add.at(counts[0], true_classes, np.where(match, iou, 0).sum(axis=1))
        np.add.at(counts[1], true_classes, match.sum(axis=1))
        in_crowd = (shared * (same_class & excuses[:, None])).sum(axis=0)
        wrong = ~match.any(axis=0) & (in_void + in_crowd <= 0.5 * predicted_area)
        np.add.at(counts[2], predicted_classes[wrong], 1)
        np.add.at(counts[3], true_classes[~match.any(axis=1) & ~crowd], 1)
        self.table += torch.from_numpy(counts)
        classes = np.flatnonzero(counts[1:].any(axis=0))
        values = dict(zip(_COLUMNS, map(torch.from_numpy, (classes, *counts[:, classes]))))
        self.rows.add(image, **values)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Percentages under ``"panoptic_seg"``: PQ, SQ, RQ, and with ``_th`` and ``_st`` over things and stuff.

        A mean is over the classes that occur in ground truth or prediction. Has to be called by all processes.
        """
        table = sum_over_processes(self.table).numpy()
        quality, occurs = qualities(table), table[1:].sum(axis=0) > 0
        results = {}
        for suffix, part in (("", np.ones_like(self.things)), ("_th", self.things), ("_st", ~self.things)):
            rows = quality[part & occurs]
            means = rows.mean(axis=0) if len(rows) else np.full(3, np.nan)
            results.update(
                {f"{name}{suffix}": 100 * float(x) for name, x in zip(("PQ", "SQ", "RQ"), means, strict=True)}
            )
        results.update({f"PQ-{name}": 100 * float(q) for name, q in zip(self.class_names, quality[:, 0], strict=True)})
        return {self.task: results}

    def state(self) -> dict[str, Tensor]:
        """What this process has counted so far."""
        return {"table": self.table.cpu(), **self.rows.state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continues from the `state` of an earlier run."""
        self.table = state["table"].clone()
        self.rows.load_state(state)


def qualities(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C, 3) PQ, SQ, RQ as fractions from a `PanopticEvaluator`'s (4, C) table; 0 for classes that do not occur."""
    iou, hits, false_positives, false_negatives = table
    size = hits + (false_positives + false_negatives) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(np.stack([iou / size, iou / hits, hits / size], axis=1))


def _is_last(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether no later entry has the same value."""
    last = np.zeros(len(values), dtype=bool)
    last[len(values) - 1 - np.unique(values[::-1], return_index=True)[1]] = True
    return last


def _positions(ids: Tensor, segments: Sequence[dict[str, Any]]) -> Tensor:
    """(pixels,) 1 + place of the segment of each id, 0 for ids without one."""
    flat = ids.reshape(-1).long()
    if not segments:
        return torch.zeros_like(flat)
    ascending, order = torch.tensor([segment["id"] for segment in segments], device=ids.device).sort()
    slots = torch.searchsorted(ascending, flat).clamp_(max=len(segments) - 1)
    return torch.where(ascending[slots] == flat, order[slots] + 1, 0)
