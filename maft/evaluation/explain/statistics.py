"""What the masks and names of many images look like: ranks of true names, wrong names, calibration.

Shape letters: Q proposals, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maft.evaluation.explain.coalitions import Coalitions
from maft.evaluation.explain.evidence import Evidence
from maft.evaluation.explain.explanation import Calibration, Confusion, NameRanks, ReliabilityBin, SimilarityBin
from maft.evaluation.explain.relations import relation
from maft.evaluation.explain.stages import Cover, named
from maft.structures import TextClassifier

# Of a reliability diagram (Guo et al., "On Calibration of Modern Neural Networks", 2017), and of cosines.
_CONFIDENCE_BINS = 15
_COSINE_BINS = 10


class NameStatistics:
    """Counts the own names of right masks, see `own_logits`: at which place the true one stands, and which wins.

    Args:
        names: C class names.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.ranks = torch.zeros(2, len(names), dtype=torch.int64)
        self.pixels = torch.zeros(len(names), len(names), dtype=torch.int64)

    def add(self, cover: Cover, own: Tensor) -> None:
        """Counts the masks of one image, given their own logits (Q, C)."""
        right = cover.right
        true, logits = cover.true[right], own[right]
        shown = cover.pixels[right].gather(1, true[:, None])[:, 0]
        above = (logits > logits.gather(1, true[:, None])).sum(dim=1)
        weights = torch.stack([torch.ones_like(shown), shown])
        self.ranks.index_add_(1, above.cpu(), weights.cpu())
        self.pixels.index_put_((true.cpu(), named(logits, true).clamp(min=0).cpu()), shown.cpu(), accumulate=True)

    def name_ranks(self) -> NameRanks:
        masks, pixels = (tuple(row) for row in self.ranks.tolist())
        return NameRanks(masks, pixels)

    def shares(self) -> Tensor:
        """(C, C) float64, of the pixels of a class under right masks the share of each name, NaN for no pixel."""
        return self.pixels.double() / self.pixels.sum(dim=1, keepdim=True)

    def confusions(self, cosines: Tensor | None) -> tuple[Confusion, ...]:
        """The wrong names that occur, with the most pixels first.

        Args:
            cosines: (C, C) of the texts of classes.
        """
        wrong, shares = self.pixels.clone().fill_diagonal_(0), self.shares()
        places = wrong.flatten().argsort(descending=True, stable=True)
        places = places[wrong.flatten()[places] > 0]
        return tuple(
            Confusion(
                self.names[true], self.names[other], int(wrong[true, other]), float(shares[true, other]),
                None if cosines is None else float(cosines[true, other]),
                relation(self.names[true], self.names[other]),
            )
            for true, other in zip((places // len(self.names)).tolist(), (places % len(self.names)).tolist())
        )  # fmt: skip

    def similarity(self, cosines: Tensor | None) -> tuple[SimilarityBin, ...]:
        """How often classes are confused whose texts are alike: bins of equal width over the cosines that occur."""
        pairs = ~torch.eye(len(self.names), dtype=torch.bool) & (self.pixels.sum(dim=1) > 0)[:, None]
        if cosines is None or not pairs.any():
            return ()
        values, shares = cosines.double()[pairs], self.shares()[pairs]
        edges = torch.linspace(float(values.min()), float(values.max()), _COSINE_BINS + 1, dtype=torch.float64)
        place = torch.bucketize(values, edges[1:-1].contiguous(), right=True)
        count = torch.bincount(place, minlength=_COSINE_BINS)
        total = torch.bincount(place, shares, minlength=_COSINE_BINS)
        return tuple(
            SimilarityBin(float(edges[index]), float(edges[index + 1]), int(count[index]), float(mean))
            for index, mean in enumerate(total / count)
            if count[index]
        )


def class_cosines(text: TextClassifier) -> Tensor | None:
    """(C, C) cosine of the texts of two classes, the largest over their texts; None for texts of single images."""
    if text.embeddings.ndim != 2:
        return None
    units = torch.nn.functional.normalize(text.embeddings.detach().float(), dim=-1)
    return text.class_maximum(text.class_maximum(units @ units.T).T.contiguous()).cpu()


class CalibrationStatistics:
    """Counts the confidences of labelled pixels."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3, _CONFIDENCE_BINS, dtype=torch.float64)

    def add(self, evidence: Evidence, coalitions: Coalitions) -> None:
        """Counts the pixels of one image."""
        counted = evidence.truth >= 0
        sure = coalitions.confidence[counted].double()
        right = (coalitions.labels == evidence.truth)[counted].double()
        place = (sure * _CONFIDENCE_BINS).long().clamp(max=_CONFIDENCE_BINS - 1)
        for row, weights in zip(self.sums, (torch.ones_like(sure), sure, right), strict=True):
            row += torch.bincount(place, weights, minlength=_CONFIDENCE_BINS).cpu()

    def calibration(self) -> Calibration:
        pixels, confidence, accuracy = self.sums[0], self.sums[1] / self.sums[0], self.sums[2] / self.sums[0]
        gaps = (self.sums[1] - self.sums[2]).abs().sum() / pixels.sum()
        bins = (
            ReliabilityBin(index / _CONFIDENCE_BINS, (index + 1) / _CONFIDENCE_BINS, int(count), sure, right)
            for index, (count, sure, right) in enumerate(
                zip(pixels.tolist(), confidence.tolist(), accuracy.tolist(), strict=True)
            )
        )
        return Calibration(tuple(bins), float(gaps))
