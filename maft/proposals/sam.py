"""SAM and SAM 2 as proposers (Kirillov et al., ICCV 2023; Ravi et al., 2024), class-agnostic and never trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import nms

from maft.clip import CLIPEncoder
from maft.interfaces import BuildContext, Proposer
from maft.layers.crops import tight_boxes
from maft.options import AboveZero, Fraction, NonNegative, Positive
from maft.proposals.sam_model import SAMGeometry, load_sam, point_grid, stability, without_small_regions
from maft.registry import PROPOSERS
from maft.structures import Images, Proposals, Targets, TextClassifier, proposals_of_masks

# The defaults of the two official mask generators, by whether the image is squashed (SAM 2).
_IOU_THRESHOLD = {False: 0.88, True: 0.8}


@PROPOSERS.register()
class SAM(Proposer):
    """Proposer: masks of Segment Anything from a grid of points over the image.

    Args:
        model: ``transformers.SamModel`` or ``transformers.Sam2Model``.
        pretrained: a folder or a hub id, see `maft.proposals.sam_model.load_sam`.
        points_per_side: the grid has its square.
        points_per_batch: points decoded at once, a bound on memory; each gives three masks.
        iou_threshold: least quality a mask must predict of itself; None: as released, 0.88 for SAM, 0.8 for SAM 2.
        stability_threshold: least IoU of a mask cut at logit +``stability_offset`` and at -``stability_offset``.
        stability_offset: see there.
        nms_threshold: masks whose boxes overlap a better one's by more than this IoU are dropped.
        min_region_area: holes and islands of fewer pixels are removed, on the CPU; 0 leaves them.

    Raises:
        UserError: the model is no SAM.
    """

    brings_weights = True
    pixel_mean: Tensor
    pixel_std: Tensor

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
    ) -> None:
        super().__init__()
        self.geometry = SAMGeometry(model)
        self.model: Any = model
        self.points_per_side, self.points_per_batch = points_per_side, points_per_batch
        self.iou_threshold = _IOU_THRESHOLD[self.geometry.squashes] if iou_threshold is None else iou_threshold
        self.stability_threshold, self.stability_offset = stability_threshold, stability_offset
        self.nms_threshold, self.min_region_area = nms_threshold, min_region_area
        # SAM's own normalisation of RGB images in 0..255.
        self.register_buffer("pixel_mean", torch.tensor((123.675, 116.28, 103.53)), persistent=False)
        self.register_buffer("pixel_std", torch.tensor((58.395, 57.12, 57.375)), persistent=False)
        self.eval()

    @classmethod
    def from_options(cls, context: BuildContext, *, pretrained: str = "facebook/sam-vit-huge", **options: Any) -> Any:
        return cls(load_sam(pretrained), **options)

    def train(self, mode: bool = True) -> Any:
        """Always in eval mode: nothing in it trains."""
        return super().train(False)

    def trainable_parameters(self) -> tuple[nn.Parameter, ...]:
        """Nothing."""
        return ()

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
        embeddings = self.model.get_image_embeddings(self.prepare(images))
        masks = []
        for index, size in enumerate(images.sizes):
            one = slice(index, index + 1)
            # SAM 2 also hands on two finer feature maps.
            embedding = [maps[one] for maps in embeddings] if self.geometry.squashes else embeddings[one]
            masks.append(self.automatic_masks(embedding, size))
        return proposals_of_masks(masks, images)

    def prepare(self, images: Images) -> Tensor:
        """(B, 3, side, side) as SAM takes them: resized, normalised, then padded with zeros."""
        side = self.geometry.side
        square = images.pixels.new_zeros(len(images.sizes), 3, side, side)
        mean, std = self.pixel_mean.view(3, 1, 1), self.pixel_std.view(3, 1, 1)
        for slot, pixels, (height, width) in zip(square, images.pixels, images.sizes, strict=True):
            scaled = self.geometry.pixels(pixels[:, :height, :width])
            slot[:, : scaled.shape[-2], : scaled.shape[-1]] = (scaled - mean) / std
        return square

    def automatic_masks(self, embedding: Any, size: tuple[int, int]) -> Tensor:
        """The filtered masks of the point grid on one image: (n, h, w) bool, the best first."""
        points = point_grid(self.points_per_side, size, self.pixel_mean.device)
        found = [self._grid_masks(embedding, chunk, size) for chunk in points.split(self.points_per_batch)]
        logits, scores, boxes = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = nms(boxes.float(), scores, self.nms_threshold)
        masks = self._binary(logits[kept], size)
        if self.min_region_area:
            masks = without_small_regions(masks, self.min_region_area, self.nms_threshold)
        return masks

    def _grid_masks(self, embedding: Any, points: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Masks of some grid points that pass both thresholds: logits (n, h', w'), quality (n,) and boxes (n, 4).

        Only the decoder's small logits are kept: full-size masks of a whole grid would fill the memory.
        """
        logits, quality = self._decode(embedding, size, points)
        logits, quality = logits.flatten(0, 1), quality.flatten()
        good = quality > self.iou_threshold
        logits, quality = logits[good], quality[good]
        full = self.geometry.full_size(logits, size)
        boxes = tight_boxes(full > 0)
        # A mask that is empty at the image's size has an undefined stability or no box.
        stable = (stability(full, self.stability_offset) >= self.stability_threshold) & (boxes[:, 2] > 0)
        return logits[stable], quality[stable], boxes[stable]

    def _decode(self, embedding: Any, size: tuple[int, int], points: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, 3, h', w') and predicted quality (n, 3) of n points (n, 2) in pixels of the image."""
        output = self.model(
            image_embeddings=embedding,
            multimask_output=True,
            input_points=self.geometry.coordinates(points[:, None], size)[None],
            input_labels=torch.ones(1, len(points), 1, dtype=torch.long, device=points.device),
        )
        return output.pred_masks[0].float(), output.iou_scores[0].float()

    def _binary(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """(n, *size) bool, in groups that bound the memory of the full-size logits."""
        chunks = [self.geometry.full_size(chunk, size) > 0 for chunk in logits.split(self.points_per_batch)]
        return torch.cat(chunks) if chunks else logits.new_zeros(0, *size, dtype=torch.bool)
