"""Labels and scores of every pixel.

Shape letters: Q proposals, C classes, (H, W) output size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maft.layers.score_maps import View, averaged_strips, best_classes
from maft.structures import Vocabulary, as_clip_reads
from maft.summed_logits import pixel_probabilities


def semantic_result(
    views: Sequence[View],
    size: tuple[int, int],
    penalty: Tensor | None,
    *,
    labels_only: bool,
    background_below: float = 0.0,
    background: bool = False,
    temperature: float | None = None,
) -> dict[str, Any]:
    """The semantic part of `image_result`, of the mean over all exposures of an image.

    The score of a class at a pixel is the sum over proposals of class probability times mask value. Where logits of
    texts are summed instead (`summing_tile`), it is the softmax of the sum, the largest of the texts of the class.

    Args:
        size: (H, W) of the output.
        penalty, background_below, background: see `labels_of_scores`.
        temperature: adds "sem_seg_tempered" (H, W), see `tempered_confidence`; None leaves it out.
    """
    labels, confidence, tempered, kept = [], [], [], []
    row_class = views[0].exposures[0][1][0].row_class
    for _, scores in averaged_strips(views, size):
        covered = None
        if row_class is not None:
            covered, scores = (scores != 0).any(dim=0), pixel_probabilities(scores, row_class)
        found, sure = labels_of_scores(scores, penalty, covered, background_below, background)
        labels.append(found)
        confidence.append(sure)
        if temperature is not None:
            tempered.append(tempered_confidence(scores, found, temperature))
        if not labels_only:
            kept.append(scores if penalty is None else scores - penalty[:, None, None])
    # An argmax over the scores could not tell a pixel that no mask covers from one of the first class.
    result = {"sem_seg_labels": torch.cat(labels), "sem_seg_confidence": torch.cat(confidence)}
    if temperature is not None:
        result["sem_seg_tempered"] = torch.cat(tempered)
    return result if labels_only else {**result, "sem_seg": torch.cat(kept, dim=1)}


def keep_best_proposals(probabilities: Tensor) -> Tensor:
    """(Q, C) with the rows of proposals that are no class's best set to zero, as OVSeg's demo draws them."""
    best = probabilities.argmax(dim=0)
    kept = torch.zeros_like(probabilities[:, :1]).index_fill(0, best, 1)
    return probabilities * kept


def has_background(vocabulary: Vocabulary) -> bool:
    """Whether the first class is the background, as PAS-21 names it."""
    return "background" in map(as_clip_reads, vocabulary.synonyms(0))


def labels_of_scores(
    scores: Tensor,
    penalty: Tensor | None = None,
    covered: Tensor | None = None,
    background_below: float = 0.0,
    background: bool = False,
) -> tuple[Tensor, Tensor]:
    """(H, W) int64 class of the highest semantic score, -1 where no mask says anything, and how sure that is.

    The confidence (H, W) is s_best / max(1, the sum of the scores of all classes), in 0..1: the share of the best
    class. Where all scores together are less than one, the rest is what the proposals leave to "no object".

    Args:
        scores: (C, H, W), C at least 1.
        penalty: (C,) subtracted from the score of each class (ZegFormer's calibration), or None. It decides which class
            is the best one, and does not count in the confidence.
        covered: (H, W) bool, where something is said; None: where any score is above zero.
        background_below: pixels whose best class scores less are of none, or of the background where there is one,
            also where no mask says anything.
        background: whether the first class is the background.
    """
    total = scores.sum(dim=0)
    covered = total > 0 if covered is None else covered
    best, labels = best_classes(scores if penalty is None else scores - penalty[:, None, None])
    if penalty is not None:
        best = best + penalty[labels]
    if background_below:
        unsure = best < background_below
        if background:
            best, labels = torch.where(unsure, scores[0], best), labels.masked_fill(unsure, 0)
        covered = covered | unsure if background else covered & ~unsure
    # Scores are never negative, but a penalty may push them below zero.
    sure = (best / total.clamp(min=1)).clamp(0, 1)
    return labels.masked_fill(~covered, -1), sure * covered


def tempered_confidence(scores: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """(...) float32 in 0..1, how sure labels are under a temperature, which changes none of them.

    With s_c, the semantic score of a class, it is s_label^(1 / T) / (sum over classes c of s_c^(1 / T)) times what the
    proposals say of the pixel at all, min(1, sum over classes c of s_c): the softmax of log s_c / T. T = 1 is the
    confidence of `labels_of_scores`; without a label it is 0.

    Args:
        scores: (C, ...), 0 or more.
        labels: (...) int64, -1 for none.
        temperature: T above 0; below 1 it makes the best class surer.
    """
    powers = (scores / scores.amax(dim=0).clamp(min=torch.finfo(scores.dtype).tiny)) ** (1 / temperature)
    share = powers.gather(0, labels.clamp(min=0)[None])[0] / powers.sum(dim=0).clamp(min=1)
    return share * scores.sum(dim=0).clamp(max=1) * (labels >= 0)
