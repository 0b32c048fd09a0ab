"""The set-prediction criterion of mask classification (MaskFormer, FreeSeg, Mask2Former, FC-CLIP)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from torch import Tensor, nn

from maft.errors import UserError
from maft.interfaces import Proposer
from maft.layers.distributed import global_count, global_mean
from maft.matching import MASK_TERMS, HungarianMatcher, Match, dice_loss, sample_points
from maft.options import NonNegative, PositiveRgb, Rgb, Weight
from maft.structures import Proposals, Targets, TextClassifier


@dataclass(frozen=True)
class PointDraws:
    """Uniform random points of one layer, x and y in [0, 1], drawn in the order of the official releases.

    Attributes:
        matching: (B, P, 2), where the masks of an image are compared for the matching.
        candidates: (M, more than P, 2), of which each matched mask takes the most uncertain ones.
        uniform: (M, up to P, 2), those it takes besides.
    """

    matching: Tensor
    candidates: Tensor
    uniform: Tensor


@dataclass
class SetCriterion:
    """Classification and mask losses between proposals and the ground truth they are matched with.

    Every decoder layer is matched and supervised on its own, all with the same weights. Mask losses are divided by
    the number of masks of the whole batch, averaged over processes and at least one.

    Attributes:
        matcher: its weights and its form of the mask term are those of the losses too. With ``num_points`` the losses
            compare masks at as many points, most of them where the prediction is uncertain (PointRend), otherwise at
            all pixels at the size of the ground truth.
        void_weight, supervise_last_auxiliary: as in `SetPredictionProposer`.
        oversample_ratio: uniform points drawn per point kept.
        importance_sample_ratio: share of the points that are the most uncertain ones; the rest is uniform.
    """

    matcher: HungarianMatcher
    void_weight: float = 0.1
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75
    supervise_last_auxiliary: bool = True

    def __call__(self, proposals: Proposals, targets: list[Targets]) -> dict[str, Tensor]:
        """Weighted losses of the final prediction (loss_ce, loss_mask, loss_dice) and of each earlier layer (.._0, ..).

        Args:
            proposals: mask logits with class_logits (B, Q, C + 1), void last.
            targets: ground truth of each image, masks at the padded size; an image may have none.
        """
        device = proposals.masks.device
        counts = [len(target.labels) for target in targets]
        # Masks become numbers once, not once per layer, for matching and loss alike.
        truth = Targets(
            torch.cat([target.labels for target in targets]), torch.cat([target.masks for target in targets]).float()
        )
        num_masks = global_count(len(truth.labels), device)
        supervised = max(len(proposals.auxiliary) - (not self.supervise_last_auxiliary), 0)
        layers = [_logits(layer) for layer in (proposals, *proposals.auxiliary[:supervised])]
        names = ["", *(f"_{index}" for index in range(supervised))]
        losses: dict[str, Tensor] = {}
        with torch.autocast(device.type, enabled=False):
            draws = [self._draws(masks, counts) for _, masks in layers] if self.matcher.num_points else None
            compared = None if draws is None else [draw.matching for draw in draws]
            matches = self.matcher(layers, truth, counts, compared)
            for (class_logits, mask_logits), match, name, draw in zip(layers, matches, names, draws or repeat(None)):
                named = self.matcher.class_weight * self._class_loss(class_logits, truth.labels, match)
                shown = self._mask_losses(mask_logits, truth.masks, match, num_masks, draw)
                losses.update({f"{term}{name}": value for term, value in {"loss_ce": named, **shown}.items()})
        return losses

    def _mask_losses(
        self, mask_logits: Tensor, masks: Tensor, match: Match, num_masks: Tensor, draws: PointDraws | None
    ) -> dict[str, Tensor]:
        matcher = self.matcher
        predicted, wanted = mask_logits.flatten(0, 1)[match[0], None], masks[match[1], None]
        if draws is not None:
            with torch.no_grad():
                points = self.uncertain_points(predicted, draws)
                wanted = sample_points(wanted, points)
            predicted = sample_points(predicted, points)
        else:
            predicted = F.interpolate(predicted, size=wanted.shape[-2:], mode="bilinear", align_corners=False)
        predicted, wanted = predicted.flatten(1), wanted.flatten(1)
        pixel_loss = MASK_TERMS[matcher.mask_loss][0](predicted, wanted).mean(1)
        return {
            "loss_mask": matcher.mask_weight * pixel_loss.sum() / num_masks,
            "loss_dice": matcher.dice_weight * dice_loss(predicted, wanted).sum() / num_masks,
        }

    def _class_loss(self, class_logits: Tensor, labels: Tensor, match: Match) -> Tensor:
        """Weighted mean cross-entropy of all proposals; those without a match should be void."""
        void = class_logits.shape[-1] - 1
        wanted = labels.new_full(class_logits.shape[:2], void)
        wanted.view(-1)[match[0]] = labels[match[1]]
        weight = class_logits.new_ones(void + 1)
        weight[-1] = self.void_weight
        total = F.cross_entropy(class_logits.transpose(1, 2), wanted, weight, reduction="sum")
        # The weighted mean over the queries of all processes; their weights may sum to less than one.
        return global_mean(total, weight[wanted].sum(), minimum=1e-6)

    def _draws(self, mask_logits: Tensor, counts: Sequence[int]) -> PointDraws:
        """The random points of a layer; how many it takes is known before its masks are matched."""
        device, points = mask_logits.device, self.matcher.num_points
        matched = sum(min(count, mask_logits.shape[1]) for count in counts)
        matching = torch.cat([torch.rand(1, points, 2, device=device) for _ in counts])
        candidates = torch.rand(matched, int(points * self.oversample_ratio), 2, device=device)
        others = points - int(self.importance_sample_ratio * points)
        uniform = torch.rand(matched, others, 2, device=device) if others else candidates[:, :0]
        return PointDraws(matching, candidates, uniform)

    def uncertain_points(self, mask_logits: Tensor, draws: PointDraws) -> Tensor:
        """Points (M, P, 2) in [0, 1] for mask logits (M, 1, h, w): the most uncertain first, then the uniform ones."""
        uncertainty = -sample_points(mask_logits, draws.candidates)[:, 0].abs()
        most = self.matcher.num_points - draws.uniform.shape[1]
        chosen = uncertainty.topk(most, dim=1)[1]
        return torch.cat([draws.candidates.gather(1, chosen[..., None].expand(-1, -1, 2)), draws.uniform], dim=1)


def _logits(layer: Proposals) -> tuple[Tensor, Tensor]:
    assert layer.class_logits is not None, "the set criterion needs the proposer's class logits"
    return layer.class_logits.float(), layer.masks.float()


class SetPredictionProposer(Proposer):
    """A proposer that the set criterion trains on a backbone's features: what Mask2Former and MaskFormer share.

    Args:
        backbone: a Detectron2 backbone, or None where the shared CLIP's image tower is the backbone.
        class_weight: weight of the cross-entropy, in the loss and in the matching cost.
        mask_weight: weight of the mask loss, likewise.
        dice_weight: weight of the dice loss, likewise.
        void_weight: weight of the void class within the cross-entropy.
        mask_loss: focal (MaskFormer, FreeSeg) or bce (Mask2Former, FC-CLIP).
        num_points: masks are compared at this many points, most of them where the prediction is uncertain; 0: all.
        supervise_last_auxiliary: False leaves out the prediction before the last layer, as FreeSeg's release does.
        pixel_mean, pixel_std: normalisation of RGB images in 0..255 for the backbone; CLIP has its own.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: nn.Module | None,
        *,
        class_weight: Weight = 1.0,
        mask_weight: Weight = 20.0,
        dice_weight: Weight = 1.0,
        void_weight: Weight = 0.1,
        mask_loss: Literal["focal", "bce"] = "focal",
        num_points: NonNegative = 0,
        supervise_last_auxiliary: bool = True,
        pixel_mean: Rgb = (123.675, 116.28, 103.53),
        pixel_std: PositiveRgb = (58.395, 57.12, 57.375),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        # Padding to less than the coarsest stride would let the levels disagree in size.
        self.size_divisibility = max(int(backbone.size_divisibility), 32) if isinstance(backbone, Backbone) else 32
        matcher = HungarianMatcher(
            class_weight=class_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
            mask_loss=mask_loss,
            num_points=num_points,
        )
        self.criterion = SetCriterion(
            matcher, void_weight=void_weight, supervise_last_auxiliary=supervise_last_auxiliary
        )
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std), persistent=False)

    def losses(self, proposals: Proposals, text: TextClassifier, targets: list[Targets]) -> dict[str, Tensor]:
        """Weighted set losses of the final prediction and of every auxiliary one.

        Raises:
            UserError: the vocabulary has no void row, which unmatched queries are trained towards.
        """
        if text.void is None:
            raise UserError("The set criterion needs a no-object embedding: set MODEL.VOCABULARY.VOID to True.")
        return self.criterion(proposals, targets)
