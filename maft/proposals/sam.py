"""Segment Anything as proposer, never trained: masks from a grid of points, or from a user's boxes and points.

SAM (Kirillov et al., ICCV 2023), MobileSAM (Zhang et al., 2023), SAM-HQ (Ke et al., NeurIPS 2023), SAM 2 and 2.1 (Ravi
et al., 2024), EdgeTAM (Zhou et al., CVPR 2025) and the part of SAM 3 (Carion et al., 2025) that takes points and boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import nms

from maft.clip import CLIPEncoder
from maft.interfaces import BuildContext
from maft.layers.crops import tight_boxes
from maft.layers.mask_fusion import fused_masks
from maft.options import AboveZero, Fraction, NonNegative, Positive
from maft.proposals.sam_filters import stability, without_small_regions
from maft.proposals.sam_model import NeverTrained, encoded, geometry_of, load_sam
from maft.registry import PROPOSERS
from maft.structures import Images, Prompts, Proposals, Targets, TextClassifier, proposals_of_masks


@PROPOSERS.register()
class SAM(NeverTrained):
    """Proposer: masks of Segment Anything from a grid of points over the image, or from a user's boxes and points.

    Of a box it takes the one mask, of an object shown by one point the best of the three that the model gives, and of
    one shown by several points the one mask, in the order asked for and without the filters of the grid.

    Args:
        model: one of transformers, see `maft.proposals.sam_model.FAMILIES`.
        pretrained: a folder, a hub id or MobileSAM's file, see `maft.proposals.sam_model.load_sam`.
        points_per_side: the grid has its square.
        points_per_batch: points decoded at once, a bound on memory; each gives three masks.
        iou_threshold: least quality a mask must predict of itself; None: as released, 0.88 for SAM, MobileSAM and
            SAM-HQ, 0.8 for the others.
        stability_threshold: least IoU of a mask cut at logit +``stability_offset`` and at -``stability_offset``.
        stability_offset: see there.
        nms_threshold: masks whose boxes overlap a better one's by more than this IoU are dropped.
        min_region_area: holes and islands of fewer pixels are removed, on the CPU; 0 leaves them.
        fuse_overlap: masks of the grid join a better one that shares this much of the smaller, see
            `maft.layers.mask_fusion.fused_masks`: TextRegion's 0.8; None joins none.

    Raises:
        UserError: the model is no SAM.
    """

    takes_prompts = True

    def __init__(
        self,
        model: nn.Module,
        *,
        points_per_side: Annotated[int, Field(ge=1, le=1000)] = 32,
        points_per_batch: Positive = 64,
        iou_threshold: float | None = None,
        stability_threshold: Fraction = 0.95,
        stability_offset: AboveZero = 1.0,
        nms_threshold: Fraction = 0.7,
        min_region_area: NonNegative = 0,
        fuse_overlap: Fraction | None = None,
    ) -> None:
        super().__init__()
        self.geometry = geometry_of(model)
        self.model: Any = model
        self.points_per_side, self.points_per_batch = points_per_side, points_per_batch
        self.iou_threshold = self.geometry.family.iou_threshold if iou_threshold is None else iou_threshold
        self.stability_threshold, self.stability_offset = stability_threshold, stability_offset
        self.nms_threshold, self.min_region_area = nms_threshold, min_region_area
        self.fuse_overlap = fuse_overlap
        self.eval()

    @classmethod
    def from_options(cls, context: BuildContext, *, pretrained: str = "facebook/sam-vit-huge", **options: Any) -> Any:
        return cls(load_sam(pretrained), **options)

    @torch.no_grad()
    def forward(
        self,
        images: Images,
        text: TextClassifier,
        clip: CLIPEncoder,
        targets: list[Targets] | None = None,
        records: Sequence[dict[str, Any]] | None = None,
    ) -> Proposals:
        """Binary masks (B, Q, H, W) as floats, in images of few masks followed by slots that are not ``valid``."""
        asked = [record.get("prompts") for record in records or [{} for _ in images.sizes]]
        masks = [
            self.automatic_masks(embedding, size) if prompts is None else self.prompted_masks(embedding, size, prompts)
            for embedding, size, prompts in zip(self.encoded(images), images.sizes, asked, strict=True)
        ]
        return proposals_of_masks(masks, images)

    def encoded(self, images: Images) -> list[dict[str, Any]]:
        """What the decoder wants to know of each image, see `maft.proposals.sam_model.encoded`."""
        return encoded(self.model, self.geometry.prepared(images))

    def prompted_masks(self, embedding: dict[str, Any], size: tuple[int, int], prompts: Prompts) -> Tensor:
        """The mask of each box, then of each object shown by points: (n, h, w) bool."""
        return self.binary(self.prompted_logits(embedding, size, prompts), size)

    def prompted_logits(self, embedding: dict[str, Any], size: tuple[int, int], prompts: Prompts) -> Tensor:
        """The same as logits (n, h', w') at the size of the decoder."""
        prompts = prompts.to(self.model.device)
        found: dict[int, Tensor] = {}
        corners = self.geometry.coordinates(prompts.boxes.view(-1, 2, 2), size).view(-1, 4)
        for boxes in corners.split(self.points_per_batch) if len(corners) else ():
            logits, _ = self._decode(embedding, False, input_boxes=boxes[None])
            found.update(enumerate(logits[:, 0], start=len(found)))
        # Objects shown by as many points go together: points that pad would change what is found.
        for count in {len(points) for points in prompts.points}:
            alike = [index for index, points in enumerate(prompts.points) if len(points) == count]
            points = torch.stack([prompts.points[index] for index in alike])
            best = [self._best_of_points(embedding, size, chunk) for chunk in points.split(self.points_per_batch)]
            found.update((len(corners) + index, logits) for index, logits in zip(alike, torch.cat(best), strict=True))
        return torch.stack([found[index] for index in range(len(prompts))])

    def _best_of_points(self, embedding: dict[str, Any], size: tuple[int, int], points: Tensor) -> Tensor:
        logits, quality = self._of_points(embedding, size, points[..., :2], points[..., 2].long())
        return logits[torch.arange(len(logits)), quality.argmax(1)]

    def automatic_masks(self, embedding: dict[str, Any], size: tuple[int, int]) -> Tensor:
        """The filtered masks of the point grid on one image: (n, h, w) bool, the best first."""
        points = point_grid(self.points_per_side, size, self.model.device)
        found = [self._grid_masks(embedding, chunk, size) for chunk in points.split(self.points_per_batch)]
        logits, scores, boxes = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = nms(boxes.float(), scores, self.nms_threshold)
        masks = self.binary(logits[kept], size)
        if self.min_region_area:
            masks = without_small_regions(masks, self.min_region_area, self.nms_threshold)
        if self.fuse_overlap is not None:
            masks = fused_masks(masks.float(), tight_boxes(masks), overlap=self.fuse_overlap) > 0
        return masks

    def _grid_masks(
        self, embedding: dict[str, Any], points: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Masks of some grid points that pass both thresholds: logits (n, h', w'), quality (n,) and boxes (n, 4).

        Only the decoder's small logits are kept: full-size masks of a whole grid would fill the memory.
        """
        on_object = torch.ones(len(points), 1, dtype=torch.long, device=points.device)
        logits, quality = self._of_points(embedding, size, points[:, None], on_object)
        logits, quality = logits.flatten(0, 1), quality.flatten()
        good = quality > self.iou_threshold
        logits, quality = logits[good], quality[good]
        full = self.geometry.full_size(logits, size)
        boxes = tight_boxes(full > 0)
        # A mask that is empty at the image's size has an undefined stability or no box.
        stable = (stability(full, self.stability_offset) >= self.stability_threshold) & (boxes[:, 2] > 0)
        return logits[stable], quality[stable], boxes[stable]

    def _of_points(
        self, embedding: dict[str, Any], size: tuple[int, int], points: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Masks of n objects, each shown by k points.

        Args:
            points: (n, k, 2) x, y in pixels of the image.
            labels: (n, k) int64, 1 on the object and 0 outside it.

        Returns:
            logits (n, 3, h', w') and predicted quality (n, 3); one of each instead of three where k is above 1.
        """
        places = self.geometry.coordinates(points, size)
        return self._decode(embedding, points.shape[1] == 1, input_points=places[None], input_labels=labels[None])

    def _decode(self, embedding: dict[str, Any], multimask: bool, **prompts: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(**embedding, multimask_output=multimask, **prompts)
        return output.pred_masks[0].float(), output.iou_scores[0].float()

    def binary(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """(n, *size) bool, in groups that bound the memory of the full-size logits."""
        chunks = [self.geometry.full_size(chunk, size) > 0 for chunk in logits.split(self.points_per_batch)]
        return torch.cat(chunks) if chunks else logits.new_zeros(0, *size, dtype=torch.bool)


def point_grid(points_per_side: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """(n * n, 2) x, y in pixels: the centres of n x n equal cells of an image, row by row."""
    centres = (torch.arange(points_per_side, device=device) + 0.5) / points_per_side
    y, x = torch.meshgrid(centres * size[0], centres * size[1], indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)
