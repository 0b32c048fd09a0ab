"""What a model said of one image beside the truth, and its masks at the pixels of the output.

Shape letters: Q proposals, C classes, (H, W) output size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from maft.ensembles import ClassifierAlone, ProposerAlone, class_scores
from maft.errors import UserError
from maft.inference import ResizedMasks, has_background
from maft.interfaces import ClassScores, Ensemble
from maft.layers.score_maps import output_strips, resized_rows, source_rows
from maft.structures import Classification, Proposals, Vocabulary


@dataclass(frozen=True, eq=False)
class Rule:
    """How a model makes labels of masks and class scores.

    Attributes:
        ensemble: of the model.
        options: ``MODEL.INFERENCE`` in lower case.
        vocabulary: the names offered to the model.

    Raises:
        UserError: labels are made by another rule than the sum of class probabilities times masks.
    """

    ensemble: Ensemble
    options: Mapping[str, Any]
    vocabulary: Vocabulary

    def __post_init__(self) -> None:
        if not self.options["semantic"]:
            raise UserError("Only semantic results are explained: set MODEL.INFERENCE.SEMANTIC True.")
        if self.options.get("sum_logits"):
            raise UserError(
                "MODEL.INFERENCE.SUM_LOGITS gives masks no names of their own, so that no part of its loss is theirs: "
                "explain a run with SUM_LOGITS False."
            )

    @property
    def seen(self) -> Tensor:
        """(C,) bool."""
        return torch.tensor(self.vocabulary.seen or [False] * len(self.vocabulary))

    @property
    def penalty(self) -> Tensor | None:
        """(C,) see `maft.inference.labels_of_scores`."""
        value = self.options["seen_penalty"]
        return self.seen * value if value and self.vocabulary.seen is not None else None

    @property
    def background(self) -> bool:
        return has_background(self.vocabulary)

    @property
    def resize_before(self) -> bool:
        return bool(self.options["resize_before"] or self.options["panoptic"] or self.options["instance"])

    def proposer_names(self, scores: ClassScores) -> bool:
        """Whether masks have the proposer's names, and the classifier has no say or does not exist."""
        return scores.classifier is None or isinstance(self.ensemble, ProposerAlone)

    def joins(self, scores: ClassScores) -> bool:
        """Whether two opinions become one."""
        return not self.proposer_names(scores) and not isinstance(self.ensemble, ClassifierAlone)


@dataclass(frozen=True, eq=False)
class Strip:
    """Masks at some rows of the output.

    Attributes:
        rows: of the output.
        weights: (Q, n, w) what each mask weighs, at the size at which classes and masks are combined.
        places: where the rows lie among these n; None: they are these.
        width: W.
    """

    rows: slice
    weights: Tensor
    places: Tensor | None
    width: int

    def scores(self, probabilities: Tensor) -> Tensor:
        """(C, rows, W) scores of classes, as the model makes them of (Q, C) probabilities."""
        return self._resized(torch.einsum("qc,qhw->chw", probabilities, self.weights))

    def masks(self) -> Tensor:
        """(Q, rows, W)."""
        return self._resized(self.weights)

    def _resized(self, values: Tensor) -> Tensor:
        return values if self.places is None else resized_rows(values, self.places, self.width)


@dataclass(frozen=True, eq=False)
class Evidence:
    """One image.

    Attributes:
        file: of the image.
        proposals: a batch of one.
        classification: of the same; None without a classifier.
        size: (height, width) at which the model saw the image, without padding.
        truth: (H, W) int64 classes of the vocabulary, -1 where a pixel does not count.
        segments: (H, W) int64 numbers of the panoptic segments from 0, -1 elsewhere; None where there are none.
        segment_classes: (n,) int64 class of each.
    """

    file: str
    proposals: Proposals
    classification: Classification | None
    size: tuple[int, int]
    truth: Tensor
    segments: Tensor | None = None
    segment_classes: Tensor | None = None

    @cached_property
    def offered(self) -> Tensor:
        """(Q,) bool: the proposals that are no padding slots."""
        masks, valid = self.proposals.masks, self.proposals.valid
        return masks.new_ones(masks.shape[1], dtype=torch.bool) if valid is None else valid[0]

    def scores(self, rule: Rule) -> ClassScores:
        """What the ensemble joins, for a batch of one."""
        return class_scores(self.proposals, self.classification, rule.seen.to(self.proposals.masks.device))

    def strips(self, rule: Rule) -> Iterator[Strip]:
        """The masks over the output, strip after strip from the top, in the model's own arithmetic."""
        proposals, output = self.proposals, (int(self.truth.shape[0]), int(self.truth.shape[1]))
        tile = replace(ResizedMasks.of(proposals, self.size, output).tile, cut=rule.options["best_masks_above"])
        most = max(len(tile.masks), len(rule.vocabulary))
        for rows in output_strips(output, [(tile.height, tile.width)], most):
            source, places = source_rows(tile.height, output[0], rows)
            masks, here = tile.mask_rows(source), slice(rows.start, rows.stop)
            if rule.resize_before:
                yield Strip(here, tile.weights(resized_rows(masks, places, output[1])), None, output[1])
            else:
                yield Strip(here, tile.weights(masks), places, output[1])
