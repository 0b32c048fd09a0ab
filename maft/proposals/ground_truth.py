"""Ground-truth masks as proposals: the oracle column of the tables and Mask-Adapter's warm-up stage."""

from __future__ import annotations

from typing import Any

from torch import nn

from maft.errors import UserError
from maft.matching import Draws, ground_truth_slots
from maft.registry import PROPOSERS
from maft.structures import Images, Proposals, Targets, TextClassifier


@PROPOSERS.register()
class GroundTruth(nn.Module):
    """Proposer: the annotated masks of each image, with nothing to train.

    Args:
        num_masks: proposals per image in training: where an image has more, a random subset; free slots are invalid.
            0, and evaluation always, takes as many as the richest image of the batch has.
        draws: source of the random subsets.
    """

    needs_targets = True
    size_divisibility = 32

    def __init__(self, *, num_masks: int = 0, draws: Draws | None = None) -> None:
        super().__init__()
        if num_masks < 0:
            raise UserError(f"MODEL.PROPOSER.GroundTruth.NUM_MASKS is {num_masks}: it must be 0 (all) or more.")
        self.num_masks = num_masks
        self.draws = draws or Draws()

    @classmethod
    def from_options(cls, context: Any, *, num_masks: int = 0) -> GroundTruth:
        return cls(num_masks=num_masks)

    def forward(
        self,
        images: Images,
        text: TextClassifier,
        clip: Any,
        targets: list[Targets] | None = None,
        batched_inputs: Any = None,
    ) -> Proposals:
        """Binary masks (B, Q, H, W) as floats with their labels; slots without a mask are not ``valid``, label -1.

        Raises:
            UserError: the images come without annotations.
        """
        if targets is None:
            raise UserError(
                "The GroundTruth proposer needs annotated images: use a dataset with masks, or another proposer."
            )
        slots = self.num_masks if self.training and self.num_masks else max(len(t.labels) for t in targets)
        # At least one slot: downstream code may then take a maximum over proposals.
        masks, labels = ground_truth_slots(targets, max(slots, 1), self.draws)
        return Proposals(masks.float(), images.padded_size, are_logits=False, valid=labels >= 0, labels=labels)
