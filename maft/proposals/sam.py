"""SAM and SAM 2 as proposers (Kirillov et al., ICCV 2023; Ravi et al., 2024), class-agnostic and never trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maft.errors import UserError
from maft.layers.crops import tight_boxes
from maft.proposals.mask2former import IMAGENET_MEAN, IMAGENET_STD
from maft.proposals.sam_model import (
    SAMGeometry,
    load_sam,
    point_grid,
    stability,
    without_duplicates,
    without_small_regions,
)
from maft.registry import PROPOSERS
from maft.structures import Images, Proposals, proposals_of_masks

# The defaults of the two official mask generators.
_IOU_THRESHOLD = {False: 0.88, True: 0.8}


@PROPOSERS.register()
class SAM(nn.Module):
    """Proposer: masks of Segment Anything, from a grid of points over the image or from the user's prompts.

    A Detectron2 dict of ``batched_inputs`` may hold prompts, in pixels of its ``"image"``; every prompt gives one
    mask, in the order boxes, then points, and no grid is used for that image:

    - ``"prompt_boxes"``: (n, 4) as x0, y0, x1, y1;
    - ``"prompt_points"``: (n, 2) as x, y, or (n, k, 2) for k points a mask;
    - ``"prompt_point_labels"``: (n,) or (n, k), 1 on the object (the default), 0 off it.

    Args:
        model: ``transformers.SamModel`` or ``transformers.Sam2Model``.
        points_per_side: the grid has its square.
        points_per_batch: points decoded at once, a bound on memory; each gives three masks.
        iou_threshold: least quality a mask must predict of itself; None: as released, 0.88 for SAM, 0.8 for SAM 2.
        stability_threshold: least IoU of a mask cut at logit +``stability_offset`` and at -``stability_offset``.
        nms_threshold: masks whose boxes overlap a better one's by more than this IoU are dropped.
        min_region_area: holes and islands of fewer pixels are removed, on the CPU; 0 leaves them.
        pixel_mean, pixel_std: normalisation of RGB images in 0..255.

    Raises:
        UserError: a number is out of range, or the model is no SAM.
    """

    size_divisibility = 32
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        points_per_side: int = 32,
        points_per_batch: int = 64,
        iou_threshold: float | None = None,
        stability_threshold: float = 0.95,
        stability_offset: float = 1.0,
        nms_threshold: float = 0.7,
        min_region_area: int = 0,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.geometry = SAMGeometry(model)
        _at_least("POINTS_PER_SIDE", points_per_side, 1)
        _at_least("POINTS_PER_BATCH", points_per_batch, 1)
        _at_least("MIN_REGION_AREA", min_region_area, 0)
        self.model: Any = model
        self.points_per_side = points_per_side
        self.points_per_batch = points_per_batch
        self.iou_threshold = _IOU_THRESHOLD[self.geometry.squashes] if iou_threshold is None else iou_threshold
        self.stability_threshold = stability_threshold
        self.stability_offset = stability_offset
        self.nms_threshold = nms_threshold
        self.min_region_area = min_region_area
        self.register_buffer("pixel_mean", torch.tensor(tuple(pixel_mean)), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(tuple(pixel_std)), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_options(
        cls,
        context: Any,
        *,
        weights: str = "facebook/sam-vit-huge",
        points_per_side: int = 32,
        points_per_batch: int = 64,
        iou_threshold: float | None = None,
        stability_threshold: float = 0.95,
        stability_offset: float = 1.0,
        nms_threshold: float = 0.7,
        min_region_area: int = 0,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> SAM:
        """Reads ``weights``, a folder or a hub id, see `maft.proposals.sam_model.load_sam`."""
        return cls(
            load_sam(weights),
            points_per_side=points_per_side,
            points_per_batch=points_per_batch,
            iou_threshold=iou_threshold,
            stability_threshold=stability_threshold,
            stability_offset=stability_offset,
            nms_threshold=nms_threshold,
            min_region_area=min_region_area,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )

    def train(self, mode: bool = True) -> SAM:
        """Always in eval mode: nothing in it trains."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self,
        images: Images,
        text: Any,
        clip: Any,
        targets: Any = None,
        batched_inputs: list[dict[str, Any]] | None = None,
    ) -> Proposals:
        """Binary masks (B, Q, H, W) as floats, in images of few masks followed by slots that are not ``valid``.

        Raises:
            UserError: a prompt has another shape.
        """
        embeddings = self.model.get_image_embeddings(self.prepare(images))
        masks = []
        for index, size in enumerate(images.sizes):
            one = slice(index, index + 1)
            # SAM 2 also hands on two finer feature maps.
            embedding = [maps[one] for maps in embeddings] if self.geometry.squashes else embeddings[one]
            given = batched_inputs[index] if batched_inputs else {}
            if "prompt_boxes" in given or "prompt_points" in given:
                masks.append(self.prompted_masks(embedding, size, given))
            else:
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
        kept = without_duplicates(boxes, scores, self.nms_threshold)
        masks = self._binary(logits[kept], size)
        if self.min_region_area:
            masks = without_small_regions(masks, self.min_region_area, self.nms_threshold)
        return masks

    def _grid_masks(self, embedding: Any, points: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Masks of some grid points that pass both thresholds: logits (n, h', w'), quality (n,) and boxes (n, 4).

        Only the decoder's small logits are kept: full-size masks of a whole grid would fill the memory.
        """
        logits, quality = self._decode(embedding, size, points=points[:, None])
        logits, quality = logits.flatten(0, 1), quality.flatten()
        good = quality > self.iou_threshold
        logits, quality = logits[good], quality[good]
        full = self.geometry.full_size(logits, size)
        boxes = tight_boxes(full > 0)
        # A mask that is empty at the image's size has an undefined stability or no box.
        stable = (stability(full, self.stability_offset) >= self.stability_threshold) & (boxes[:, 2] > 0)
        return logits[stable], quality[stable], boxes[stable]

    def prompted_masks(self, embedding: Any, size: tuple[int, int], given: dict[str, Any]) -> Tensor:
        """One mask per prompt of one image, unfiltered: (n, h, w) bool."""
        masks = []
        if "prompt_boxes" in given:
            boxes = self._prompt("prompt_boxes", given["prompt_boxes"], (2,), 4)
            if len(boxes):
                # A box leaves no doubt about its object: SAM's single mask is meant for such prompts.
                logits, _ = self._decode(embedding, size, boxes=boxes, several=False)
                masks.append(self._binary(logits[:, 0], size))
        if "prompt_points" in given:
            points = self._prompt("prompt_points", given["prompt_points"], (2, 3), 2)
            points = points[:, None] if points.dim() == 2 else points
            labels = torch.ones(points.shape[:2], dtype=torch.long, device=points.device)
            if "prompt_point_labels" in given:
                labels = self._labels(given["prompt_point_labels"], points)
            if len(points):
                logits, quality = self._decode(embedding, size, points=points, labels=labels)
                best = quality.argmax(1)
                masks.append(self._binary(logits[torch.arange(len(best), device=best.device), best], size))
        return torch.cat(masks) if masks else torch.zeros(0, *size, dtype=torch.bool, device=self.pixel_mean.device)

    def _decode(
        self,
        embedding: Any,
        size: tuple[int, int],
        *,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        several: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Logits (n, m, h', w') and predicted quality (n, m) of n prompts in pixels of the image, m masks each."""
        prompts: dict[str, Tensor] = {}
        if points is not None:
            prompts["input_points"] = self.geometry.coordinates(points, size)[None]
            labels = torch.ones(points.shape[:2], dtype=torch.long, device=points.device) if labels is None else labels
            prompts["input_labels"] = labels[None]
        if boxes is not None:
            prompts["input_boxes"] = self.geometry.coordinates(boxes.view(-1, 2, 2), size).flatten(1)[None]
        output = self.model(image_embeddings=embedding, multimask_output=several, **prompts)
        return output.pred_masks[0].float(), output.iou_scores[0].float()

    def _binary(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """(n, *size) bool, in groups that bound the memory of the full-size logits."""
        chunks = [self.geometry.full_size(chunk, size) > 0 for chunk in logits.split(self.points_per_batch)]
        return torch.cat(chunks) if chunks else logits.new_zeros(0, *size, dtype=torch.bool)

    def _prompt(self, key: str, value: Any, dims: tuple[int, ...], last: int) -> Tensor:
        prompt = torch.as_tensor(value, dtype=torch.float32, device=self.pixel_mean.device)
        if prompt.dim() not in dims or prompt.shape[-1] != last:
            expected = "(n, 4) as x0, y0, x1, y1" if last == 4 else "(n, 2) or (n, k, 2) as x, y"
            raise UserError(f"{key!r} of an image has the shape {tuple(prompt.shape)}, but it must be {expected}.")
        return prompt

    def _labels(self, value: Any, points: Tensor) -> Tensor:
        labels = torch.as_tensor(value, dtype=torch.long, device=points.device)
        labels = labels[:, None] if labels.dim() == 1 else labels
        if labels.shape != points.shape[:2] or not ((labels == 0) | (labels == 1)).all():
            raise UserError(
                f"'prompt_point_labels' must hold a 0 or 1 for each of the {tuple(points.shape[:2])} points of "
                "'prompt_points'."
            )
        return labels


def _at_least(option: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"MODEL.PROPOSER.SAM.{option} is {value}, but it must be at least {least}.")
