"""Explains the score of a model, one image at a time.

Shape letters: C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maft.errors import UserError
from maft.evaluation.confusion import SemanticScores
from maft.evaluation.explain.coalitions import Coalitions
from maft.evaluation.explain.evidence import Evidence, Rule
from maft.evaluation.explain.explanation import ClassLoss, Explanation, ImageLoss, MaskAccuracy, Parts
from maft.evaluation.explain.recall import RecallStatistics, Regions, class_regions, components
from maft.evaluation.explain.shapley import COALITIONS, STAGES, shapley
from maft.evaluation.explain.stages import Cover, overlaps, own_logits
from maft.evaluation.explain.statistics import CalibrationStatistics, NameStatistics
from maft.evaluation.explain.worst import WorstMasks


class Explainer:
    """Splits 100 - mIoU into what each stage of a model loses, over images that are added one by one.

    Args:
        rule: of the model.
        names: C class names of reports, in the order of ``rule.vocabulary``.
        seen: whether each class counts as seen; None where there is no such split.
        cosines: (C, C) cosine of the texts of classes, see `class_cosines`.
        worst: how many of the worst masks are kept.
    """

    def __init__(
        self,
        rule: Rule,
        names: Sequence[str],
        *,
        seen: Sequence[bool] | None = None,
        cosines: Tensor | None = None,
        worst: int = 24,
    ) -> None:
        self.rule, self.names, self.seen, self.cosines = rule, tuple(names), seen, cosines
        self.pixels = torch.zeros(len(self.names), dtype=torch.int64)
        self.hits, self.predicted = (torch.zeros(COALITIONS, len(self.names), dtype=torch.int64) for _ in range(2))
        self.images: list[ImageLoss] = []
        self._recall: dict[str, RecallStatistics] = {}
        self._name_statistics, self._calibration = NameStatistics(self.names), CalibrationStatistics()
        self._worst = WorstMasks(rule, self.names, worst)

    @torch.no_grad()
    def add(self, evidence: Evidence) -> Coalitions:
        """Counts one image, whose (32, C) counts are returned."""
        regions = self._regions(evidence)
        shown = overlaps(evidence, self.rule, [(one.numbers, len(one.classes)) for one in regions])
        cover = Cover(shown[0], evidence.offered)
        coalitions = Coalitions.of(evidence, self.rule, cover)
        self.pixels += coalitions.pixels
        self.hits += coalitions.hits
        self.predicted += coalitions.predicted
        there = coalitions.pixels > 0
        losses = class_losses(coalitions.pixels, coalitions.hits, coalitions.predicted)[:, there].mean(dim=1)
        self.images.append(ImageLoss(evidence.file, _parts(losses) if there.any() else None))
        for one, overlap in zip(regions, shown, strict=True):
            self._recall.setdefault(one.kind, RecallStatistics(one.kind, self.names)).add(one, overlap)
        self._name_statistics.add(cover, own_logits(self.rule, evidence.scores(self.rule)))
        self._calibration.add(evidence, coalitions)
        self._worst.add(evidence, cover, coalitions)
        return coalitions

    def _regions(self, evidence: Evidence) -> list[Regions]:
        regions = [class_regions(evidence.truth, len(self.names)), components(evidence.truth)]
        if evidence.segments is not None and evidence.segment_classes is not None:
            regions.append(Regions("panoptic segment", evidence.segments, evidence.segment_classes))
        return regions

    def explanation(self, facts: Mapping[str, Any], mask_accuracy: MaskAccuracy | None = None) -> Explanation:
        """What was found.

        Args:
            facts: see `Explanation`; the number of images is added.
            mask_accuracy: see `Explanation`.

        Raises:
            UserError: no pixel is labelled.
        """
        there = self.pixels > 0
        if not there.any():
            raise UserError("No pixel of these images is labelled with one of the offered classes: nothing is lost.")
        losses = class_losses(self.pixels, self.hits, self.predicted)
        by_class = [_parts(losses[:, index]) if there[index] else None for index in range(len(self.names))]
        seen = [None] * len(self.names) if self.seen is None else list(self.seen)
        split = {"seen": torch.tensor(self.seen), "unseen": ~torch.tensor(self.seen)} if self.seen is not None else {}
        return Explanation(
            facts={**facts, "images": len(self.images)},
            miou=100 * self.scores().mean_iou(),
            total=_parts(losses[:, there].mean(dim=1)),
            groups={
                name: _parts(losses[:, there & part].mean(dim=1))
                for name, part in split.items()
                if (there & part).any()
            },
            classes=tuple(
                ClassLoss(name, flag, count, parts)
                for name, flag, count, parts in zip(self.names, seen, self.pixels.tolist(), by_class, strict=True)
            ),
            images=tuple(self.images),
            mask_recall=tuple(statistics.recall() for statistics in self._recall.values() if statistics.counts.any()),
            name_ranks=self._name_statistics.name_ranks(),
            confusions=self._name_statistics.confusions(self.cosines),
            similarity=self._name_statistics.similarity(self.cosines),
            calibration=self._calibration.calibration(),
            mask_accuracy=mask_accuracy,
            worst_masks=self._worst.worst_masks(),
        )

    def scores(self) -> SemanticScores:
        """Those of the evaluation, from the same counts."""
        pixels, hits, predicted = (
            counts.numpy().astype(np.float64) for counts in (self.pixels, self.hits[0], self.predicted[0])
        )
        return SemanticScores.of_counts(pixels, predicted, hits)


def class_losses(pixels: Tensor, hits: Tensor, predicted: Tensor) -> Tensor:
    """(6, C) float64 100 - IoU of each class in percent and its five parts; NaN for classes without a pixel.

    Args:
        pixels, hits, predicted: (C,), (32, C) and (32, C), see `Coalitions`.
    """
    iou = 100 * hits.double() / (pixels + predicted - hits)
    iou = torch.where(pixels > 0, iou, torch.nan)
    return torch.cat([100 - iou[:1], shapley(iou)])


def _parts(losses: Tensor) -> Parts:
    """Of (6,) numbers."""
    loss, *parts = (losses + 0.0).tolist()
    return Parts(loss, **dict(zip(STAGES, parts, strict=True)))
