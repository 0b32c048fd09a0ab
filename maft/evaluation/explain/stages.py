"""Ground truth in the place of one stage of a model at a time: what its masks would then be called.

Shape letters: Q proposals, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maft.evaluation.explain.evidence import Evidence, Rule
from maft.interfaces import ClassScores

# So far below the least class logit has no object a probability of exactly zero, in every precision.
_FAR_BELOW = 1000.0


@dataclass(frozen=True, eq=False)
class Cover:
    """What proposals show of the truth.

    Attributes:
        pixels: (Q, C) int64 labelled pixels of each class under each mask, where its value is at least 0.5.
        offered: (Q,) bool, the proposals that are no padding slots; the others show nothing.
    """

    pixels: Tensor
    offered: Tensor

    @classmethod
    def of(cls, evidence: Evidence, rule: Rule) -> Cover:
        truth, classes = evidence.truth, len(rule.vocabulary)
        return cls(overlaps(evidence, rule, [(truth, classes)])[0], evidence.offered)

    @property
    def true(self) -> Tensor:
        """(Q,) int64, the class with most of a mask's labelled pixels, -1 for a mask without one."""
        most, true = self.pixels.max(dim=1)
        return torch.where(most > 0, true, -1)

    @property
    def right(self) -> Tensor:
        """(Q,) bool: at least half of a mask's labelled pixels are of its true class."""
        return (self.true >= 0) & (2 * self.pixels.amax(dim=1) >= self.pixels.sum(dim=1))


def overlaps(evidence: Evidence, rule: Rule, maps: Iterable[tuple[Tensor, int]]) -> list[Tensor]:
    """How many pixels of each region every mask shows, where its value is at least 0.5.

    Args:
        maps: (H, W) int64 numbers of regions, -1 for none, and how many regions there are.

    Returns:
        for each map (Q, regions) int64.
    """
    maps, proposals = list(maps), evidence.proposals.masks.shape[1]
    totals = [evidence.truth.new_zeros(proposals * (count + 1)) for _, count in maps]
    for strip in evidence.strips(rule):
        shown = (strip.masks() >= 0.5) & evidence.offered[:, None, None]
        mask, row, column = shown.nonzero(as_tuple=True)
        for total, (numbers, count) in zip(totals, maps, strict=True):
            region = numbers[strip.rows][row, column]
            places = mask * (count + 1) + torch.where(region < 0, count, region)
            total += torch.bincount(places, minlength=len(total))
    return [total.view(proposals, -1)[:, :-1] for total in totals]


def own_logits(rule: Rule, scores: ClassScores) -> Tensor:
    """(Q, C) logits of the one who names masks: of the classifier, or of the proposer where it has no say."""
    logits = scores.proposer if rule.proposer_names(scores) else scores.classifier
    if logits is None:
        # The ensemble knows what is missing.
        scores.proposer_probabilities()
    assert logits is not None
    return logits[0, :, : len(rule.vocabulary)]


def exchanged(values: Tensor, which: Tensor, true: Tensor) -> Tensor:
    """Values (Q, n) in which, for some rows (Q,) bool, that of the true class (Q,) and the largest changed places."""
    largest, best = values.max(dim=1, keepdim=True)
    place = true.clamp(min=0)[:, None]
    corrected = values.scatter(1, best, values.gather(1, place)).scatter(1, place, largest)
    return torch.where(which[:, None], corrected, values)


def named(values: Tensor, true: Tensor) -> Tensor:
    """(Q,) the place of the largest of values (Q, n), the true class where several are; -1 for a row of zeros."""
    largest, best = values.max(dim=1)
    place = true.clamp(min=0)
    best = torch.where((true >= 0) & (values.gather(1, place[:, None])[:, 0] == largest), place, best)
    return torch.where((values != 0).any(dim=1), best, -1)


def final_probabilities(
    rule: Rule, evidence: Evidence, true: Tensor, *, names: bool, ensemble: bool, void: Tensor
) -> Tensor:
    """What the ensemble makes of all scores, with ground truth for some of its stages.

    - names: of every mask with a true class, the logit of that class and the largest class logit change places: a
      right name with the confidence of the wrong one. One with all confidence would overpower a bad ensemble.
    - void: no object has no share, and masks that were taken out as too small to classify have their own names.
    - ensemble: where a mask's own name is right and the joint one is not, the joint probability of the true class and
      the largest class probability change places. Where only one names masks, there is nothing to join.

    Args:
        true: (Q,) int64 true class of each mask, -1 without one.
        names, ensemble: whether ground truth stands in there.
        void: (Q,) bool, for which masks it stands in for no object.

    Returns:
        (Q, C) or (Q, C + 1) float32, void last; zeros for padding slots.
    """
    classes, scores = len(rule.vocabulary), evidence.scores(rule)
    own = own_logits(rule, scores)
    if names:
        own = exchanged(own, true >= 0, true)
        scores = _with_own(rule, scores, own)
    if void.any():
        scores = _without_void(scores, void, classes)
    result = rule.ensemble(scores)
    if evidence.proposals.valid is not None:
        result = result * evidence.proposals.valid[..., None]
    result = result[0].float()
    silent = void & evidence.offered & ~(result[:, :classes] > 0).any(dim=1)
    if silent.any():
        restored = torch.nn.functional.pad(own.float().softmax(-1), (0, result.shape[1] - classes))
        result = torch.where(silent[:, None], restored, result)
    if ensemble and rule.joins(scores):
        shown = result[:, :classes]
        wrong = (true >= 0) & (named(own, true) == true) & (named(shown, true) != true)
        result = torch.cat([exchanged(shown, wrong, true), result[:, classes:]], dim=1)
    return result


def _with_own(rule: Rule, scores: ClassScores, own: Tensor) -> ClassScores:
    if rule.proposer_names(scores):
        assert scores.proposer is not None
        return replace(scores, proposer=torch.cat([own[None], scores.proposer[..., own.shape[1] :]], dim=-1))
    return replace(scores, classifier=own[None])


def _without_void(scores: ClassScores, which: Tensor, classes: int) -> ClassScores:
    """The same where, for some masks (Q,) bool, no object has the logit of nobody.

    A rule that leaves void out of its result has it in a factor: there is no share of void to divide by.
    """
    changed = scores
    if scores.proposer is not None and scores.proposer.shape[-1] > classes:
        inside = scores.proposer[..., :classes]
        void = inside.amin(dim=-1, keepdim=True) - _FAR_BELOW
        void = torch.where(which[None, :, None], void, scores.proposer[..., classes:])
        changed = replace(changed, proposer=torch.cat([inside, void], dim=-1))
    if scores.classifier is not None and scores.classifier_void is not None:
        void = scores.classifier.amin(dim=-1, keepdim=True) - _FAR_BELOW
        void = torch.where(which[None, :, None], void, scores.classifier_void)
        changed = replace(changed, classifier_void=void)
    return changed
