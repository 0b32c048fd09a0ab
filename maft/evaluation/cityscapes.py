"""Instance segmentation as Cityscapes measures it: average precision by the dataset's own cityscapesscripts."""

from __future__ import annotations

import copy
import itertools
import json
import math
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import Tensor

from maft.data.catalog import DatasetRow
from maft.data.preparation.cityscapes import read_instance_map
from maft.data.reading import Record
from maft.errors import UserError

# Smaller values of an instance map are labels: stuff, void, or groups of things that nobody took apart.
_FIRST_INSTANCE = 1000


class CityscapesInstanceEvaluator(DatasetEvaluator):
    """Average precision of masks over IoU 0.50 to 0.95; void, groups and objects below 100 pixels excuse predictions.

    Images are matched as they come, in memory, so that no mask is written to disk; precision and recall are
    cityscapesscripts' own.

    Args:
        label_ids: label index -> Cityscapes' id of every class with instances.
        suffixes: endings of the label maps that records name and of the instance maps beside them.

    Raises:
        UserError: cityscapesscripts is not installed.

    The result is the same in every process; `evaluate` has to be called by all of them.
    """

    def __init__(self, label_ids: Mapping[int, int], suffixes: tuple[str, str]) -> None:
        self.official = _official()
        self.options = copy.copy(self.official.args)
        self.official.setInstanceLabels(self.options)
        self.names = {label: self.official.id2label[id_].name for label, id_ in label_ids.items()}
        self.suffixes = suffixes
        self.reset()

    @classmethod
    def of_dataset(cls, row: DatasetRow) -> CityscapesInstanceEvaluator:
        """The evaluator of a row of the catalogue with instance maps."""
        ids = row.classes.category_ids
        return cls({label: ids[label] for label in row.classes.things}, (row.label_suffix, row.instance_suffix))

    def reset(self) -> None:
        # What cityscapesscripts calls matches: one entry an image.
        self.matches: list[dict[str, Any]] = []

    def process(self, records: list[Record], outputs: list[dict[str, Any]]) -> None:
        """Matches a batch.

        Args:
            records: with ``"sem_seg_file_name"``, beside which the instance map lies.
            outputs: dicts with ``"instances"``: ``pred_masks`` (n, H, W), ``scores`` (n,) and ``pred_classes`` (n,),
                label indices, of which those without instances are left out.
        """
        for record, output in zip(records, outputs, strict=True):
            path = record["sem_seg_file_name"].removesuffix(self.suffixes[0]) + self.suffixes[1]
            truth = torch.from_numpy(read_instance_map(path))
            found = output["instances"]
            if found.pred_masks.shape[1:] != truth.shape:
                raise UserError(f"The instances predicted for {record['file_name']} and {path} differ in size.")
            try:
                self.matches.append(self._match(truth, found))
            except KeyError as error:
                raise UserError(
                    f"{path} is not an instance map of Cityscapes: it holds the unknown id {error}."
                ) from None

    def _match(self, truth: Tensor, found: Instances) -> dict[str, Any]:
        masks = found.pred_masks.flatten(1).bool()
        values, places = torch.unique(truth.to(masks.device), return_inverse=True)
        # (n, m) pixels that each predicted mask shares with each value of the instance map.
        owner, pixel = masks.nonzero(as_tuple=True)
        number = owner * len(values) + places.flatten()[pixel]
        shared = torch.bincount(number, minlength=len(masks) * len(values)).view(-1, len(values)).cpu()
        areas = torch.bincount(places.flatten(), minlength=len(values)).tolist()
        table = self.official.id2label
        names = [table[v // _FIRST_INSTANCE if v >= _FIRST_INSTANCE else v].name for v in values.tolist()]
        void = torch.tensor([v < _FIRST_INSTANCE and table[v].ignoreInEval for v in values.tolist()])
        columns: dict[str, list[int]] = {name: [] for name in self.options.instLabels}
        for column, name in enumerate(names):
            columns.get(name, []).append(column)
        truths = [
            {"instID": v, "pixelCount": area, "medDist": -1, "distConf": 0.0} for v, area in zip(values.tolist(), areas)
        ]
        matched: list[list[dict[str, Any]]] = [[] for _ in truths]
        predictions: dict[str, list[dict[str, Any]]] = {name: [] for name in columns}
        for row, label, score in zip(shared, found.pred_classes.tolist(), found.scores.tolist()):
            name, area = self.names.get(label), int(row.sum())
            if name is None or not area:
                continue
            prediction = {"pixelCount": area, "confidence": score, "voidIntersection": int(row[void].sum())}
            touched = [column for column in columns[name] if row[column]]
            for column in touched:
                matched[column].append({**prediction, "intersection": int(row[column])})
            partners = [{**truths[column], "intersection": int(row[column])} for column in touched]
            predictions[name].append({**prediction, "matchedGt": partners})
        listed = {name: [{**truths[c], "matchedPred": matched[c]} for c in found] for name, found in columns.items()}
        return {"groundTruth": listed, "prediction": predictions}

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Percentages under ``"segm"``: cityscapes_AP, cityscapes_AP50, cityscapes_AP-<class>; NaN without truth."""
        self.matches = list(itertools.chain(*comm.all_gather(self.matches)))
        # Their code fails where each prediction of a class is excused. A wrong one that is less sure than all others
        # changes no average: recall stays as it is there.
        wrong = {"pixelCount": 1, "confidence": -math.inf, "voidIntersection": 0, "matchedGt": []}
        names = self.options.instLabels
        added = {"groundTruth": {name: [] for name in names}, "prediction": {name: [wrong] for name in names}}
        precision = self.official.evaluateMatches(dict(enumerate([*self.matches, added])), self.options)
        with warnings.catch_warnings():
            # A mean over no class is NaN, as it should be.
            warnings.simplefilter("ignore", RuntimeWarning)
            means = self.official.computeAverages(precision, self.options)
        results = {"cityscapes_AP": means["allAp"], "cityscapes_AP50": means["allAp50%"]}
        results |= {f"cityscapes_AP-{name}": means["classes"][name]["ap"] for name in self.names.values()}
        return {"segm": {name: 100 * float(value) for name, value in results.items()}}

    def state(self) -> dict[str, Tensor]:
        """What this process has matched so far."""
        return {"matches": torch.tensor(list(json.dumps(self.matches).encode()), dtype=torch.uint8)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continues from the `state` of an earlier run."""
        self.matches = json.loads(bytes(state["matches"].numpy()))


def _official() -> ModuleType:
    try:
        from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling
    except ImportError:
        raise UserError(
            "Average precision on Cityscapes is measured by cityscapesscripts, which is not installed: run 'pip "
            "install maft[cityscapes]' or 'make install EXTRAS=dev,cityscapes', or set MODEL.INFERENCE.INSTANCE False."
        ) from None
    return evalInstanceLevelSemanticLabeling
