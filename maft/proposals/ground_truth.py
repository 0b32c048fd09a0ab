"""Ground-truth masks as proposals: the oracle column of the tables and Mask-Adapter's warm-up stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maft.clip import CLIPEncoder
from maft.errors import UserError
from maft.interfaces import Proposer
from maft.matching import ground_truth_slots
from maft.options import NonNegative
from maft.registry import PROPOSERS
from maft.structures import Images, Proposals, Targets, TextClassifier


@PROPOSERS.register()
class GroundTruth(Proposer):
    """Proposer: the annotated masks of each image, with nothing to train.

    Args:
        num_masks: proposals per image in training: where an image has more, a random subset; free slots are invalid.
            0, and evaluation always, takes as many as the richest image of the batch has.
    """

    needs_targets = True
    sees_pixels = False

    def __init__(self, *, num_masks: NonNegative = 0) -> None:
        super().__init__()
        self.num_masks = num_masks

    def forward(
        self,
        images: Images,
        text: TextClassifier,
        clip: CLIPEncoder,
        targets: list[Targets] | None = None,
        records: Sequence[dict[str, Any]] | None = None,
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
        masks, labels = ground_truth_slots(targets, max(slots, 1))
        return Proposals(masks.float(), images.padded_size, are_logits=False, valid=labels >= 0, labels=labels)
