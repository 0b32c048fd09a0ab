"""The masks that cost the most pixels, for pictures of what goes wrong.

Shape letters: Q proposals, C classes, (H, W) output size.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor

from maft.evaluation.explain.coalitions import Coalitions
from maft.evaluation.explain.evidence import Evidence, Rule
from maft.evaluation.explain.explanation import WorstMask
from maft.evaluation.explain.stages import Cover, named, own_logits
from maft.exports.coco import encoded_masks
from maft.interfaces import ClassScores

# By how far the right masks of a wrong pixel get: there is none, none has its right name, none keeps it in the
# ensemble, none is an object, and one is but does not win.
CAUSES = ("masks", "names", "ensemble", "void", "fusion")
_SHOWN_SCORES = 5


class WorstMasks:
    """Keeps the wrong regions with the most pixels: of one class in one image with one cause.

    Args:
        rule: of the model.
        names: C class names.
        most: how many are kept.
    """

    def __init__(self, rule: Rule, names: Sequence[str], most: int) -> None:
        self.rule, self.names, self.most = rule, names, most
        self._heaps: list[list[tuple[int, int, WorstMask]]] = [[] for _ in CAUSES]
        self._order = 0

    def add(self, evidence: Evidence, cover: Cover, coalitions: Coalitions) -> None:
        """Looks at one image."""
        if not self.most:
            return
        scores = evidence.scores(self.rule)
        reached = self._reached(cover, own_logits(self.rule, scores), coalitions.final)
        regions = self._regions(evidence, cover, coalitions, reached)
        sizes = torch.bincount(regions[regions >= 0], minlength=len(self.rule.vocabulary) * len(CAUSES))
        wanted = [
            (pixels, region)
            for region, pixels in zip(sizes.nonzero()[:, 0].tolist(), sizes[sizes > 0].tolist(), strict=True)
            if len(heap := self._heaps[region % len(CAUSES)]) < self.most or pixels > heap[0][0]
        ]
        for pixels, region in wanted:
            heap = self._heaps[region % len(CAUSES)]
            if len(heap) == self.most and pixels <= heap[0][0]:
                continue
            # The first of two with as many pixels stays.
            self._order -= 1
            entry = (
                pixels,
                self._order,
                self._described(evidence, cover, coalitions, reached, scores, regions, region),
            )
            if len(heap) < self.most:
                heapq.heappush(heap, entry)
            else:
                heapq.heapreplace(heap, entry)

    def worst_masks(self) -> tuple[WorstMask, ...]:
        """Those with the most pixels first; each cause has its share of them, as far as it lost any."""
        ranked = [sorted(heap, key=lambda entry: entry[:2], reverse=True) for heap in self._heaps]
        share = self.most // len(CAUSES)
        first = [entry for entries in ranked for entry in entries[:share]]
        others = sorted((entry for entries in ranked for entry in entries[share:]), key=lambda entry: entry[:2])
        kept = [*first, *others[::-1][: self.most - len(first)]]
        return tuple(mask for _, _, mask in sorted(kept, key=lambda entry: entry[:2], reverse=True))

    def _reached(self, cover: Cover, own: Tensor, final: Tensor) -> Tensor:
        """(Q,) int64 how far each mask gets, a place in `CAUSES`; 0 for masks that are not right."""
        classes, true = len(self.rule.vocabulary), cover.true
        own_right = named(own, true) == true
        silent = ~(final[:, :classes] > 0).any(dim=1)
        kept = (named(final[:, :classes], true) == true) | (silent & own_right)
        won = named(final, true) == true
        reached = torch.where(won, 4, torch.where(kept, 3, torch.where(own_right, 2, 1)))
        return reached * cover.right

    def _regions(self, evidence: Evidence, cover: Cover, coalitions: Coalitions, reached: Tensor) -> Tensor:
        """(H, W) int64 number of each wrong pixel's region, its class times 5 plus its cause; -1 elsewhere."""
        furthest = torch.zeros_like(evidence.truth)
        for strip in evidence.strips(self.rule):
            truth = evidence.truth[strip.rows]
            shown = (strip.masks() >= 0.5) & (cover.true[:, None, None] == truth)
            furthest[strip.rows] = (shown * (reached * evidence.offered)[:, None, None]).amax(dim=0)
        wrong = (evidence.truth >= 0) & (coalitions.labels != evidence.truth)
        return torch.where(wrong, evidence.truth * len(CAUSES) + furthest, -1)

    def _described(
        self,
        evidence: Evidence,
        cover: Cover,
        coalitions: Coalitions,
        reached: Tensor,
        scores: ClassScores,
        regions: Tensor,
        region: int,
    ) -> WorstMask:
        names = self.names
        true, cause = divmod(region, len(CAUSES))
        lost = regions == region
        predicted = int(coalitions.labels[lost].mode().values)
        mask, best, shares = None, -1, {}
        if cause:
            of_region = ((cover.true == true) & (reached == cause) & evidence.offered).nonzero()[:, 0]
            shown = torch.cat([strip.masks()[of_region] >= 0.5 for strip in evidence.strips(self.rule)], dim=1)
            largest = (shown & lost).flatten(1).sum(dim=1).argmax()
            mask = encoded_masks(shown[largest][None].cpu().numpy())[0]
            chosen = int(of_region[largest])
            best = int(named(coalitions.final, cover.true)[chosen])
            shares = self._shares(scores, coalitions.final, chosen, true)
        return WorstMask(
            file=evidence.file,
            cause=CAUSES[cause],
            true=names[true],
            predicted=names[predicted] if predicted >= 0 else None,
            pixels=int(lost.sum()),
            lost=encoded_masks(lost[None].cpu().numpy())[0],
            mask=mask,
            named=names[best] if 0 <= best < len(names) else None,
            scores=shares,
        )

    def _shares(self, scores: ClassScores, final: Tensor, mask: int, true: int) -> dict[str, dict[str, float]]:
        """The class probabilities of a mask that stand out, see `WorstMask`."""
        names = self.names
        rows = {
            "classifier": None if scores.classifier is None else scores.classifier[0, mask].float().softmax(-1),
            "proposer": None if scores.proposer is None else scores.proposer[0, mask].float().softmax(-1),
            "final": final[mask],
        }
        shares = {}
        for kind, row in rows.items():
            if row is not None:
                best = row[: len(names)].topk(min(_SHOWN_SCORES, len(names))).indices.tolist()
                shares[kind] = {names[place]: float(row[place]) for place in dict.fromkeys([*best, true])}
        return shares
