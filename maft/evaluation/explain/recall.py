"""Mask recall: which of the true masks some proposal finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from maft.evaluation.explain.explanation import MaskRecall

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))


@dataclass(frozen=True, eq=False)
class Regions:
    """The true masks of one image.

    Attributes:
        kind: see `MaskRecall`.
        numbers: (H, W) int64, which of them a pixel is of, -1 for none.
        classes: (n,) int64 class of each.
    """

    kind: str
    numbers: Tensor
    classes: Tensor


def class_regions(truth: Tensor, classes: int) -> Regions:
    """All pixels of a class as one mask, given (H, W) int64 labels, -1 for none."""
    return Regions("class region", truth, torch.arange(classes, device=truth.device))


def components(truth: Tensor) -> Regions:
    """The parts of classes that hang together over the sides of pixels, given (H, W) int64 labels, -1 for none."""
    labels = truth.cpu().numpy()
    place = np.arange(labels.size).reshape(labels.shape)
    beside = labels[:, 1:] == labels[:, :-1]
    below = labels[1:] == labels[:-1]
    one = np.concatenate([place[:, 1:][beside], place[1:][below]])
    other = np.concatenate([place[:, :-1][beside], place[:-1][below]])
    graph = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(labels.size, labels.size))
    part = connected_components(graph, directed=False)[1]
    first, numbers = np.unique(np.where(labels.ravel() < 0, -1, part), return_index=True, return_inverse=True)[1:]
    nothing = int((labels < 0).any())
    return Regions(
        "connected component",
        torch.from_numpy(numbers.reshape(labels.shape).astype(np.int64) - nothing).to(truth.device),
        torch.from_numpy(labels.ravel()[first[nothing:]]).to(truth.device),
    )


class RecallStatistics:
    """Counts which true masks of one kind are found.

    A true mask is compared with every proposal where its value is at least 0.5; pixels that are of no true mask of
    the kind do not count.
    """

    def __init__(self, kind: str, names: tuple[str, ...]) -> None:
        self.kind, self.names = kind, names
        self.counts = torch.zeros(len(names), dtype=torch.int64)
        self.found = torch.zeros(len(names), len(THRESHOLDS), dtype=torch.int64)

    def add(self, regions: Regions, overlap: Tensor) -> None:
        """Counts the true masks of one image, given (Q, n) pixels of each under every proposal."""
        areas = torch.bincount(regions.numbers[regions.numbers >= 0], minlength=len(regions.classes))
        union = overlap.sum(dim=1, keepdim=True) + areas - overlap
        best = (overlap / union.clamp(min=1)).amax(dim=0)
        there = areas > 0
        classes = regions.classes[there].cpu()
        # A ratio of whole numbers in float32 may lie a hair below the threshold that it is equal to.
        found = best[there, None].cpu() >= torch.tensor(THRESHOLDS) - 1e-6
        self.counts += torch.bincount(classes, minlength=len(self.names))
        self.found.index_add_(0, classes, found.long())

    def recall(self) -> MaskRecall:
        count = int(self.counts.sum())
        shares = self.found / self.counts[:, None]
        there = [index for index, number in enumerate(self.counts.tolist()) if number]
        return MaskRecall(
            kind=self.kind,
            count=count,
            thresholds=THRESHOLDS,
            recall=tuple((self.found.sum(dim=0) / count).tolist()),
            by_class={self.names[index]: tuple(shares[index].tolist()) for index in there},
            counts={self.names[index]: int(self.counts[index]) for index in there},
        )
