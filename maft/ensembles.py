"""How the class scores of the proposer and of the mask classifier become one: a rule per published system.

Every rule is a `maft.interfaces.Ensemble`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from maft.interfaces import ClassScores, Ensemble
from maft.options import Fraction
from maft.registry import ENSEMBLES
from maft.structures import Classification, Proposals


def class_scores(proposals: Proposals, classification: Classification | None, seen: Tensor) -> ClassScores:
    """What an ensemble is given of a batch; ``seen`` (C,) bool, classes of the training vocabulary."""
    everything = proposals.masks.new_ones(proposals.masks.shape[:2], dtype=torch.bool)
    scores = ClassScores(proposals.class_logits, None, None, everything, seen)
    if classification is not None:
        scores.classifier = classification.class_logits
        scores.classifier_void = classification.logits[..., -1:] if classification.has_void else None
        scores.valid = everything if classification.valid is None else classification.valid
    return scores


@ENSEMBLES.register()
class ClassifierAlone(Ensemble):
    """The mask classifier alone (MAFT's released setting).

    Args:
        valid_only: leave out proposals without a visible pixel (FreeSeg and OVSeg with weight 0).
        void: softmax over classes and void, as Mask-Adapter's warm-up model does.
        softmax_twice: official behaviour of that model's evaluation, which applies a second softmax.
    """

    def __init__(self, *, valid_only: bool = False, void: bool = False, softmax_twice: bool = False) -> None:
        self.valid_only, self.void, self.softmax_twice = valid_only, void, softmax_twice

    def __call__(self, scores: ClassScores) -> Tensor:
        if self.void and scores.classifier is not None and scores.classifier_void is not None:
            probabilities = torch.cat([scores.classifier, scores.classifier_void], dim=-1).softmax(dim=-1)
        else:
            probabilities = scores.classifier_probabilities()
        if self.softmax_twice:
            probabilities = probabilities.softmax(dim=-1)
        return probabilities * scores.valid[..., None] if self.valid_only else probabilities


@ENSEMBLES.register()
class ProposerAlone(Ensemble):
    """The proposer alone (MaskFormer or Mask2Former without CLIP's image tower)."""

    def __call__(self, scores: ClassScores) -> Tensor:
        return scores.proposer_probabilities()


class WeightedProduct(Ensemble):
    """The products of powers that FreeSeg, OVSeg and ZegFormer use: p^e q^(1-e), without renormalisation.

    p is the proposer's probability, q the classifier's (1 for proposals without a visible pixel); the subclasses say
    what e and q are.

    Args:
        weight: in [0, 1].

    Attributes:
        classifier_alone_at_zero: official special case: weight 0 names valid proposals by q alone.
    """

    classifier_alone_at_zero = True

    def __init__(self, *, weight: Fraction) -> None:
        self.weight = weight

    def exponent(self, scores: ClassScores) -> Tensor:
        """e: (C,), by default the weight for seen classes and one minus it for unseen ones."""
        return torch.where(scores.seen, self.weight, 1 - self.weight)

    def classifier(self, scores: ClassScores) -> Tensor:
        """q: (B, Q, C)."""
        clip = scores.classifier_probabilities()
        return torch.where(scores.valid[..., None], clip, torch.ones_like(clip))

    def __call__(self, scores: ClassScores) -> Tensor:
        if self.weight == 0 and self.classifier_alone_at_zero:
            return ClassifierAlone(valid_only=True)(scores)
        exponent = self.exponent(scores)
        proposer = scores.proposer_with_void().softmax(-1)[..., :-1]
        return proposer**exponent * self.classifier(scores) ** (1 - exponent)


@ENSEMBLES.register()
class FreeSegEnsemble(WeightedProduct):
    """FreeSeg's and ZSSeg's rule: p^w q^(1-w) for seen classes, p^(1-w) q^w for unseen ones."""

    def __init__(self, *, weight: Fraction = 0.8) -> None:
        super().__init__(weight=weight)


@ENSEMBLES.register()
class OVSegEnsemble(WeightedProduct):
    """OVSeg's rule: p^(1-w) q^w for every class."""

    def __init__(self, *, weight: Fraction = 0.7) -> None:
        super().__init__(weight=weight)

    def exponent(self, scores: ClassScores) -> Tensor:
        return torch.full_like(scores.seen, 1 - self.weight, dtype=torch.float32)


@ENSEMBLES.register()
class ZegFormerEnsemble(WeightedProduct):
    """ZegFormer's rules, in which CLIP competes with the proposer's no-object logit b.

    With c CLIP's logits, q is softmax([c, b]) without its last column; the rest as in `WeightedProduct`.

    Args:
        weight: l of the rules, 2/3 in the paper.
        rule: seen_average, p^l a^(1-l) for seen classes, with a the mean of q over them (CLIP only arbitrates between
            the seen classes as a group and each unseen one), and p^(1-l) q^l for unseen ones; all_classes,
            p^(1-l) q^l for every class; classifier, q alone, 0 for proposals without a visible pixel.
    """

    classifier_alone_at_zero = False

    def __init__(
        self,
        *,
        weight: Fraction = 2 / 3,
        rule: Literal["seen_average", "all_classes", "classifier"] = "seen_average",
    ) -> None:
        super().__init__(weight=weight)
        self.rule = rule

    def exponent(self, scores: ClassScores) -> Tensor:
        if self.rule == "seen_average":
            return super().exponent(scores)
        weight = 1 - self.weight if self.rule == "all_classes" else 0.0
        return torch.full_like(scores.seen, weight, dtype=torch.float32)

    def classifier(self, scores: ClassScores) -> Tensor:
        scores.classifier_probabilities()
        assert scores.classifier is not None
        clip = torch.cat([scores.classifier, scores.proposer_with_void()[..., -1:]], dim=-1).softmax(dim=-1)[..., :-1]
        clip = clip.masked_fill(~scores.valid[..., None], 0.0 if self.rule == "classifier" else 1.0)
        if self.rule != "seen_average":
            return clip
        seen = scores.seen.to(clip.dtype)
        average = (clip * seen).sum(-1, keepdim=True) / seen.sum().clamp(min=1)
        return torch.where(scores.seen, average, clip)


def geometric_ensemble(
    proposer: Tensor,
    classifier: Tensor,
    seen: Tensor,
    alpha: Tensor | float,
    beta: Tensor | float,
    floor: float = 0.0,
) -> Tensor:
    """FC-CLIP's geometric ensemble, as logits.

    With p = softmax(in-vocabulary logits without void) and q = softmax(out-of-vocabulary logits), the joint score of a
    seen class is p^(1 - alpha) q^alpha, that of an unseen one p^(1 - beta) q^beta, and that of void the proposer's
    probability v of it; a softmax over the logarithms of the classes' scores shares out the remaining 1 - v.

    Args:
        proposer: (..., C + 1) in-vocabulary logits, void last.
        classifier: (..., C) out-of-vocabulary logits.
        seen: (C,) bool.
        alpha: share of the classifier for seen classes, broadcastable to (..., 1).
        beta: the same for unseen classes.
        floor: added to the joint scores of classes.

    Returns:
        (..., C + 1) logarithms of the joint probabilities, void last.
    """
    joint = joint_scores(proposer[..., :-1], classifier, seen, alpha, beta, floor).softmax(-1)
    void = proposer.softmax(-1)[..., -1:]
    return torch.log(torch.cat([joint * (1 - void), void], dim=-1) + 1e-8)


def joint_scores(
    proposer: Tensor,
    classifier: Tensor,
    seen: Tensor,
    alpha: Tensor | float,
    beta: Tensor | float,
    floor: float = 0.0,
) -> Tensor:
    """Logarithms (..., C) of the joint scores of `geometric_ensemble`, given logits (..., C) without void."""
    # The logarithm of the product stays finite where a probability of either side underflows.
    inside, outside = proposer.log_softmax(-1), classifier.log_softmax(-1)
    seen_scores = (1 - alpha) * inside + alpha * outside
    unseen_scores = (1 - beta) * inside + beta * outside
    joint = torch.where(seen, seen_scores, unseen_scores)
    return torch.logaddexp(joint, joint.new_tensor(floor).log()) if floor else joint


@ENSEMBLES.register()
class FCCLIPEnsemble(Ensemble):
    """The geometric ensemble of FC-CLIP and Mask-Adapter; void is the proposer's.

    With both weights 1 the classifier names the masks and the proposer only says which are void: MAFT+'s rule. The
    ensemble is turned off by MODEL.ENSEMBLE.NAME ``ProposerAlone`` or ``ClassifierAlone``.

    Args:
        alpha: share of the classifier for seen classes, in [0, 1].
        beta: the same for unseen classes.
        floor: added to the joint scores of classes, 1e-8 in MaskCLIP++'s release.
        on_valid_masks: proposals without a visible pixel keep the proposer's scores (FC-CLIP with ResNet towers).
    """

    def __init__(
        self, *, alpha: Fraction = 0.4, beta: Fraction = 0.8, floor: Fraction = 0.0, on_valid_masks: bool = False
    ) -> None:
        self.alpha, self.beta, self.floor, self.on_valid_masks = alpha, beta, floor, on_valid_masks

    def __call__(self, scores: ClassScores) -> Tensor:
        scores.classifier_probabilities()
        assert scores.classifier is not None
        proposer = scores.proposer_with_void()
        alpha: Tensor | float = self.alpha
        beta: Tensor | float = self.beta
        if self.on_valid_masks:
            valid = scores.valid[..., None].to(proposer.dtype)
            alpha, beta = alpha * valid, beta * valid
        return geometric_ensemble(proposer, scores.classifier, scores.seen, alpha, beta, self.floor).softmax(-1)
