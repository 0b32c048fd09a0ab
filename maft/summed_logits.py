"""TextRegion's rule at the pixels (Xiao et al., TMLR 2025): logits of the masks that show one are summed there.

Shape letters: B images, Q proposals, T texts, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maft.errors import UserError
from maft.layers.score_maps import Tile
from maft.structures import Classification, Proposals, RowLogits


def row_logits(proposals: Proposals, classification: Classification | None, classes: int) -> RowLogits:
    """What TextRegion's rule sums at the pixels, of any classifier, or of a proposer without one.

    Raises:
        UserError: nothing names the masks.
    """
    if classification is not None and classification.rows is not None:
        return classification.rows
    logits = proposals.class_logits if classification is None else classification.class_logits
    if logits is None:
        raise UserError(
            "MODEL.INFERENCE.SUM_LOGITS needs logits of a classifier or of the proposer: set MODEL.CLASSIFIER.NAME."
        )
    logits = logits[..., :classes].float()
    for valid in (proposals.valid, None if classification is None else classification.valid):
        logits = logits if valid is None else logits * valid[..., None]
    return RowLogits(logits, torch.arange(classes, device=logits.device))


def summing_tile(tile: Tile, rows: RowLogits) -> Tile:
    """TextRegion's rule for the masks of one image, of a batch of one; see `pixel_probabilities`.

    Raises:
        UserError: masks are cut, each class with its best one alone, which is another rule.
    """
    if tile.cut:
        raise UserError(
            "MODEL.INFERENCE.SUM_LOGITS sums over all masks and BEST_MASKS_ABOVE keeps one a class: set SUM_LOGITS "
            "False or BEST_MASKS_ABOVE 0."
        )
    return tile.summing(rows.logits[0], rows.row_class, None if rows.elsewhere is None else rows.elsewhere[0])


def pixel_probabilities(logits: Tensor, row_class: Tensor) -> Tensor:
    """TextRegion's probabilities of classes (C, H, W) from summed logits of texts (T, H, W).

    A softmax over all texts, then the largest of each class: they add up to one where every class has one text.
    """
    probabilities = logits.softmax(dim=0)
    classes = int(row_class[-1]) + 1
    if classes == len(row_class):
        return probabilities
    best = probabilities.new_zeros(classes, *probabilities.shape[1:])
    return best.scatter_reduce(0, row_class[:, None, None].expand_as(probabilities), probabilities, "amax")
