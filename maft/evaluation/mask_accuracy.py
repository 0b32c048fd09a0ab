"""Mask accuracy: how often a mask classifier names true masks right, whatever proposes masks otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from maft.data.catalog import DatasetRow
from maft.data.reading import Record, read_panoptic_ids
from maft.errors import UserError
from maft.evaluation.confusion import SemanticScores, sum_over_processes
from maft.evaluation.semantic import SemanticEvaluator
from maft.index.stored import StoredImage
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Classification, Vocabulary, proposals_of_masks
from maft.test_time import averaging

# Elements of the full-size masks that are resized together.
_MOST_ELEMENTS = 32 * 1024 * 1024
# What an output may hold of the annotated masks of its image that an index keeps: (n,) names and (n,) classes.
TRUE_MASKS = "true_masks"


def true_masks(labels: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """One mask for each of some values of a label map, resized bilinearly.

    Args:
        labels: (H, W) integers.
        values: (n,) integers.
        size: (h, w) of the masks.

    Returns:
        (n, h, w) float32 in [0, 1].
    """
    together = max(1, _MOST_ELEMENTS // labels.numel())
    resized = [
        F.interpolate((labels == some[:, None, None]).float()[None], size, mode="bilinear", align_corners=False)[0]
        for some in values.split(together)
    ]
    return torch.cat(resized)


def named_truth(model: OpenVocabSegmentor, seen: StoredImage, words: Vocabulary) -> Mapping[str, tuple[Tensor, Tensor]]:
    """`TRUE_MASKS` of an image: (n,) name of each, -1 for none, and (n,) its class; nothing where there are none."""
    if seen.true_masks is None:
        return {}
    names = _names(model.named(seen.true_masks, words))
    return {TRUE_MASKS: (names, torch.tensor(seen.true_classes, device=names.device))}


def mask_accuracy_evaluators(
    cfg: CfgNode, row: DatasetRow, model: OpenVocabSegmentor | None, records: Sequence[Record], chosen: Sequence[str]
) -> dict[str, MaskAccuracyEvaluator]:
    """One for each kind of masks that a dataset has, among the results that are measured on it (``chosen``)."""
    images = [record["file_name"] for record in records]
    return {
        f"{kind}_masks": MaskAccuracyEvaluator.of_dataset(
            cfg, row, model=model, panoptic=kind == "panoptic", images=images
        )
        for kind in ("semantic", "panoptic")
        if kind in chosen
    }


def check_mask_accuracy(cfg: CfgNode, chosen: Sequence[str], name: str) -> None:
    """Raises `UserError` where ``TEST.MASK_ACCURACY`` cannot be measured.

    Args:
        chosen: kinds of results that are measured on the dataset.
        name: of the dataset.
    """
    if cfg.MODEL.CLASSIFIER.NAME == "none":
        raise UserError(
            "TEST.MASK_ACCURACY needs a mask classifier to name true masks: set MODEL.CLASSIFIER.NAME, or "
            "TEST.MASK_ACCURACY False."
        )
    if averaging(cfg):
        raise UserError(
            "TEST.MASK_ACCURACY names the masks of whole images as they are: set TEST.AUG.ENABLED and "
            "TEST.SLIDING_WINDOW.ENABLED False, or TEST.MASK_ACCURACY False."
        )
    if not {"semantic", "panoptic"} & set(chosen):
        raise UserError(
            f"TEST.MASK_ACCURACY needs semantic or panoptic labels, and {name} is measured by {', '.join(chosen)} "
            "alone: turn on MODEL.INFERENCE.SEMANTIC or PANOPTIC where the dataset has such labels, or set "
            "TEST.MASK_ACCURACY False."
        )


class MaskAccuracyEvaluator(SemanticEvaluator):
    """Counts the names that a model's classifier gives to the true masks of each image.

    A true mask is all of one class in a label map, or one segment of a panoptic map, crowds included (the mask
    accuracy of MaskCLIP++). It is cut out at the size of the annotation and resized bilinearly to that of the image
    that the model sees. Its name is the class of the highest logit of the classifier alone: no proposer, no ensemble
    and no void takes part. A mask that the classifier says it cannot see counts as wrong.

    Args:
        model: the model, with the names of the offered classes as its vocabulary; None: only `TRUE_MASKS` of outputs
            are counted, which an index has.
        panoptic: whether masks are those of panoptic maps.
        arguments, options: of `SemanticEvaluator`.
    """

    def __init__(
        self, *arguments: Any, model: OpenVocabSegmentor | None = None, panoptic: bool = False, **options: Any
    ) -> None:
        self.model, self.panoptic = model, panoptic
        self.task = "panoptic_mask_accuracy" if panoptic else "mask_accuracy"
        super().__init__(*arguments, **options)

    @torch.no_grad()
    def process(self, records: list[Record], outputs: list[dict[str, Any]]) -> None:
        """Counts a batch.

        Args:
            records: mapped, with ``"image"`` and ``"sem_seg_file_name"``, or ``"pan_seg_file_name"`` and
                ``"segments_info"``.
            outputs: dicts that may hold `TRUE_MASKS`, of the masks of label maps; other entries are not used.
        """
        for record, output in zip(records, outputs, strict=True):
            if TRUE_MASKS in output and not self.panoptic:
                names, classes = output[TRUE_MASKS]
                self.add(names, classes, record["file_name"], record["file_name"])
            elif self.model is not None:
                self._name(record, self.model)

    def _name(self, record: Record, model: OpenVocabSegmentor) -> None:
        labels, values, classes = self._truth(record)
        if len(values):
            images = model.padded([record])
            masks = true_masks(labels.to(model.device), values.to(model.device), images.sizes[0])
            classification = model.classify(images, proposals_of_masks([masks], images))
            assert classification is not None
            self.add(_names(classification), classes, record["file_name"], record["file_name"])

    def _truth(self, record: Record) -> tuple[Tensor, Tensor, Tensor]:
        """(H, W) map, (n,) its values that are masks, and (n,) their classes."""
        if self.panoptic:
            labels = torch.from_numpy(read_panoptic_ids(record["pan_seg_file_name"]))
            present = set(labels.unique().tolist())
            # Later segments may cover one entirely.
            segments = [segment for segment in record["segments_info"] if segment["id"] in present]
            values, classes = ([segment[key] for segment in segments] for key in ("id", "category_id"))
            return labels, torch.tensor(values), torch.tensor(classes)
        labels = self.truth(record)
        values = labels.unique()
        values = values[values != self.ignore_label]
        return labels, values, values

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Percentages, the same in every process; has to be called by all of them.

        ``mMaskAcc`` is the mean over the classes that occur of the share of a class's masks that are named right,
        ``MaskAcc`` that share of all masks, with a split also their ``seen_``, ``unseen_`` and ``harmonic_`` versions,
        and ``MaskAcc-<class>``. They stand under ``"mask_accuracy"``, of panoptic maps ``"panoptic_mask_accuracy"``.
        """
        scores = SemanticScores.of(sum_over_processes(self.confusion.counts))
        results = self.by_split(scores, _means)
        for place, index in enumerate(self.offered.tolist()):
            results[f"MaskAcc-{self.class_names[index]}"] = float(scores.accuracy[place])
        return {self.task: {name: 100 * value for name, value in results.items()}}


def _means(scores: SemanticScores) -> dict[str, float]:
    means = scores.means()
    return {"mMaskAcc": means["mACC"], "MaskAcc": means["pACC"]}


def _names(classification: Classification) -> Tensor:
    """(n,) best class of each mask of one image, -1 for one that was not seen."""
    names = classification.class_logits[0].argmax(-1)
    return names if classification.valid is None else names.masked_fill(~classification.valid[0], -1)
