"""The labels of one image with ground truth in the place of every subset of a model's five stages, counted.

Stages and their order are those of `maft.evaluation.explain.shapley`. With ground truth for

- masks: every mask is cut to the pixels of its true class, and labelled pixels without a right mask get one: for each
  class one mask of exactly these pixels, named right with a confidence of 1;
- names, ensemble, void: see `maft.evaluation.explain.stages.final_probabilities`; no object is put right for right
  masks, which with ground truth for masks are all that show anything;
- fusion: a pixel that is shown (at least 0.5) by some mask with the pixel's class as its final name is right.

A mask is right when at least half of its labelled pixels are of one class; it is then a right mask of its pixels of
that class. All stages together make every labelled pixel right.

Shape letters: Q proposals, C classes, (H, W) output size.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from maft.evaluation.explain.evidence import Evidence, Rule, Strip
from maft.evaluation.explain.shapley import COALITIONS, members
from maft.evaluation.explain.stages import Cover, final_probabilities, named
from maft.inference import keep_best_proposals, labels_of_scores


@dataclass(frozen=True, eq=False)
class Coalitions:
    """What became of one image.

    Attributes:
        pixels: (C,) int64 true pixels.
        hits: (32, C) int64 true pixels that were labelled right.
        predicted: (32, C) int64 labelled pixels that were given each class.
        labels: (H, W) int32 what the model says, -1 for nothing.
        confidence: (H, W) float32, see `labels_of_scores`.
        final: (Q, C) or (Q, C + 1) the class probabilities of the model's masks.
    """

    pixels: Tensor
    hits: Tensor
    predicted: Tensor
    labels: Tensor
    confidence: Tensor
    final: Tensor

    @classmethod
    def of(cls, evidence: Evidence, rule: Rule, cover: Cover) -> Coalitions:
        variants = _Variants.of(evidence, rule, cover)
        classes = len(rule.vocabulary)
        # The last column: nothing, or a pixel that does not count.
        hits, predicted = (torch.zeros(len(variants.final), 2, classes + 1, dtype=torch.int64) for _ in range(2))
        labels, confidence = evidence.truth.int(), evidence.truth.float()
        for strip in evidence.strips(rule):
            shown = _Shown.of(strip, evidence, cover)
            # Elsewhere labels do not count.
            counted = shown.truth >= 0
            for variant, probabilities in enumerate(variants.final):
                cut = variants.cut[variant]
                found, sure = shown.labels(probabilities, rule, cut)
                fused = torch.where(shown.named_right(probabilities, cover, cut), shown.truth, found)
                if variant == 0:
                    labels[strip.rows], confidence[strip.rows] = found.int(), sure
                for fusion, given in enumerate((found, fused)):
                    hits[variant, fusion] += _counts(given, counted & (given == shown.truth), classes).cpu()
                    predicted[variant, fusion] += _counts(given, counted, classes).cpu()
        pixels = _counts(evidence.truth, evidence.truth >= 0, classes)[:-1].cpu()
        which = variants.of_coalition
        result = cls(
            pixels, hits.flatten(0, 1)[which, :-1], predicted.flatten(0, 1)[which, :-1], labels, confidence,
            variants.final[0],
        )  # fmt: skip
        assert torch.equal(result.hits[-1], pixels), "ground truth for all stages makes all pixels right"
        assert torch.equal(result.predicted[-1], pixels), "ground truth for all stages makes no pixel wrong"
        return result


@dataclass(frozen=True, eq=False)
class _Variants:
    """The class probabilities of masks that differ between coalitions, each once.

    Attributes:
        final: (Q, C) or (Q, C + 1) each; the first ones are the model's own.
        cut: whether masks are cut to their true classes there.
        of_coalition: (32,) int64, twice the place of a coalition's probabilities, and one more with fusion.
    """

    final: list[Tensor]
    cut: list[bool]
    of_coalition: Tensor

    @classmethod
    def of(cls, evidence: Evidence, rule: Rule, cover: Cover) -> _Variants:
        final: list[Tensor] = []
        cut: list[bool] = []
        places: dict[tuple[bool, ...], int] = {}
        for masks, names, ensemble, void in product((False, True), repeat=4):
            silenced = (cover.true >= 0 if masks else cover.right) & void
            one = final_probabilities(rule, evidence, cover.true, names=names, ensemble=ensemble, void=silenced)
            same = [place for place, other in enumerate(final) if cut[place] == masks and torch.equal(other, one)]
            if not same:
                final.append(one)
                cut.append(masks)
            places[masks, names, ensemble, void] = same[0] if same else len(final) - 1
        coalitions = members().tolist()
        assert len(coalitions) == COALITIONS
        which = [
            2 * places[masks, names, ensemble, void] + fusion for masks, names, ensemble, fusion, void in coalitions
        ]
        return cls(final, cut, torch.tensor(which))


@dataclass(frozen=True, eq=False)
class _Shown:
    """What masks show at some rows of the output.

    Attributes:
        truth: (rows, W).
        covers: (Q, rows, W) bool, where a mask shows something.
        own: (Q, rows, W) bool, the pixels of a mask's true class.
        cut: (Q, rows, W) masks there, zero elsewhere.
        missing: (rows, W) bool, labelled pixels without a right mask.
    """

    strip: Strip
    truth: Tensor
    covers: Tensor
    own: Tensor
    cut: Tensor
    missing: Tensor

    @classmethod
    def of(cls, strip: Strip, evidence: Evidence, cover: Cover) -> _Shown:
        masks, truth = strip.masks(), evidence.truth[strip.rows]
        covers = (masks >= 0.5) & evidence.offered[:, None, None]
        own = (cover.true[:, None, None] == truth) & (truth >= 0)
        missing = (truth >= 0) & ~(covers & own & cover.right[:, None, None]).any(dim=0)
        return cls(strip, truth, covers, own, masks * own, missing)

    def labels(self, probabilities: Tensor, rule: Rule, cut: bool) -> tuple[Tensor, Tensor]:
        """(rows, W) labels and confidences by the model's rule."""
        named = probabilities[:, : len(rule.vocabulary)]
        if rule.options["best_masks_above"]:
            named = keep_best_proposals(named)
        if cut:
            scores = torch.einsum("qc,qhw->chw", named, self.cut)
            scores.scatter_add_(0, self.truth.clamp(min=0)[None], self.missing[None].to(scores.dtype))
        else:
            scores = self.strip.scores(named)
        penalty = None if rule.penalty is None else rule.penalty.to(scores.device)
        return labels_of_scores(
            scores, penalty, background_below=rule.options["background_below"], background=rule.background
        )

    def named_right(self, probabilities: Tensor, cover: Cover, cut: bool) -> Tensor:
        """(rows, W) bool, pixels of which some mask has the right name."""
        name = named(probabilities, cover.true)[:, None, None]
        if cut:
            return (self.covers & self.own & (name == self.truth)).any(dim=0) | self.missing
        return (self.covers & (name == self.truth) & (self.truth >= 0)).any(dim=0)


def _counts(labels: Tensor, which: Tensor, classes: int) -> Tensor:
    """(C + 1,) int64 how often each class stands at some pixels; the last one is anything else."""
    counted = torch.where(which & (labels >= 0), labels, classes).flatten()
    return torch.bincount(counted, minlength=classes + 1)
