"""Annotated masks for an index of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maft.evaluation.mask_accuracy import true_masks
from maft.evaluation.semantic import SemanticEvaluator
from maft.structures import Images, Proposals, proposals_of_masks


class SemanticTruth:
    """One mask for each class of an image's label map, as mask accuracy cuts it out (see `MaskAccuracyEvaluator`).

    Args:
        evaluator: of the dataset; reads its label maps.
    """

    def __init__(self, evaluator: SemanticEvaluator) -> None:
        self.evaluator = evaluator

    def __call__(self, record: Mapping[str, Any], images: Images) -> tuple[Proposals, Sequence[int]] | None:
        """Masks (1, n, H, W) of a record and the class of each; None where no pixel has a label.

        Args:
            record: with ``"sem_seg_file_name"``.
            images: the record as a batch of one.
        """
        labels = self.evaluator.truth(dict(record))
        values = labels.unique()
        values = values[values != self.evaluator.ignore_label]
        if not len(values):
            return None
        device = images.pixels.device
        masks = true_masks(labels.to(device), values.to(device), images.sizes[0])
        return proposals_of_masks([masks], images), values.tolist()
