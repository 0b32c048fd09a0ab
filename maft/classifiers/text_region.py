"""TextRegion (Xiao et al., TMLR 2025): masks restrict the last attention of a frozen image-text tower; nothing trains.

An image is seen as a whole and in crops, and the features of all views are joined on one grid. Cells that resemble
other regions as much as their own are taken out of every mask, and each region is what the tower's last attention, its
weights replaced by the mask, makes of the rest: `maft.clip.towers.regions`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.clip import CLIPEncoder
from maft.clip.towers.regions import RegionPool, region_pool
from maft.errors import UserError
from maft.interfaces import BuildContext, MaskClassifier
from maft.layers.grid_masks import grid_probabilities
from maft.layers.multi_resolution import MultiResolution, squashed
from maft.layers.patch_filter import local_cells
from maft.layers.score_maps import soft_masks
from maft.options import AboveZero, Positive, Side
from maft.registry import CLASSIFIERS
from maft.structures import Classification, EmbeddedMasks, Images, Proposals, RowLogits, TextClassifier

_NODE = "MODEL.CLASSIFIER.TextRegion"


@CLASSIFIERS.register()
class TextRegion(MaskClassifier):
    """Region tokens of frozen towers with a class token or a learned query (CLIP, EVA; SigLIP, PE-Core, CoCa).

    Logits are ``region_logit_scale`` times the cosine with the names or, of towers trained with a sigmoid, times that
    tower's own logit. TextRegion sums them at the pixels: set MODEL.INFERENCE.SUM_LOGITS, and ``dense_elsewhere`` for
    towers with a class token.

    Args:
        clip: the shared CLIP.
        crop_size: side of the square that the image and its crops are resized to; None: the tower's own. TextRegion
            shows 336 pixels to CLIP.
        interpolation: how they are resized; bilinear for PE-Core.
        multi_resolution: also look at crops, as many as fit into the image; otherwise the image alone is squashed, as
            OpenCV does it, and its masks with it.
        halves: look at the left and the right half in the place of the whole image (Cityscapes).
        mask_type: soft, mask values weigh the cells; hard, cells above zero count alike; None: soft for a class token
            and hard for a learned query.
        filter_threshold: least lead of a cell's likeness to its own regions over that to the others; None keeps all.
        mlp: add the last block's MLP to the region tokens of a class token, as for referring expressions.
        dense_elsewhere: pixels that no mask shows are named by themselves, where SUM_LOGITS asks for it.
        region_logit_scale: factor of the logits.
        official_positions: official behaviour: see `maft.clip.towers.regions.RegionPool.features`.
        unit_values: official behaviour but for OpenAI's towers in float16: where cells are filtered, each cell's values
            are pooled at unit length.
        views_per_chunk: views that the tower sees at once, a bound on memory.

    Raises:
        UserError: the tower has no such attention or is smaller than ``crop_size`` needs, or an option is for a class
            token and the tower has none.
    """

    def __init__(
        self,
        clip: CLIPEncoder,
        *,
        crop_size: Side | None = None,
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
        multi_resolution: bool = True,
        halves: bool = False,
        mask_type: Literal["soft", "hard"] | None = None,
        filter_threshold: float | None = 0.07,
        mlp: bool = False,
        dense_elsewhere: bool = False,
        region_logit_scale: AboveZero = 50.0,
        official_positions: bool = False,
        unit_values: bool = False,
        views_per_chunk: Positive = 16,
    ) -> None:
        super().__init__()
        pool = region_pool(clip.tower, "MODEL.CLASSIFIER.NAME TextRegion")
        for name, asked in (("MLP", mlp), ("DENSE_ELSEWHERE", dense_elsewhere), ("UNIT_VALUES", unit_values)):
            if asked and not pool.soft:
                raise UserError(
                    f"{_NODE}.{name} is for towers with a class token, and that of {clip.name} has none ("
                    f"{clip.tower.kind}): leave it out."
                )
        if crop_size is not None and crop_size < clip.tower.stride:
            raise UserError(
                f"{_NODE}.CROP_SIZE is {crop_size}, less than one patch of {clip.name}, {clip.tower.stride}."
            )
        self.crop_size = clip.image_size if crop_size is None else (crop_size, crop_size)
        self.interpolation, self.multi_resolution, self.halves = interpolation, multi_resolution, halves
        self.soft = pool.soft if mask_type is None else mask_type == "soft"
        self.filter_threshold, self.mlp, self.dense_elsewhere = filter_threshold, mlp, dense_elsewhere
        self.region_logit_scale, self.official_positions = region_logit_scale, official_positions
        self.unit_values, self.views_per_chunk = unit_values, views_per_chunk

    @classmethod
    def from_options(cls, context: BuildContext, **options: Any) -> Any:
        return cls(context.clip, **options)

    def embed(self, images: Images, proposals: Proposals, clip: CLIPEncoder) -> EmbeddedMasks:
        """Region tokens (B, Q, D), and with ``dense_elsewhere`` embeddings of single cells.

        A proposal that shows no cell, or none that is left by the filter, is not valid; its embedding is zero.
        """
        pool = region_pool(clip.tower, "MODEL.CLASSIFIER.NAME TextRegion")
        proposals = replace(proposals, masks=soft_masks(proposals.masks, proposals.are_logits), are_logits=False)
        embeddings, valid, dense = [], [], []
        for index, size in enumerate(images.sizes):
            pixels = images.pixels[index, :, : size[0], : size[1]]
            features, cells = self.features(pixels, pool, clip)
            weights = self.weights(proposals.image(index), size, (features.shape[-2], features.shape[-1]))
            tokens, shown, _ = self.regions(features, weights, pool)
            embeddings.append(tokens)
            valid.append(shown)
            dense += [] if cells is None else [cells]
        return EmbeddedMasks(torch.stack(embeddings), torch.stack(valid), {"dense": dense} if dense else {})

    def compare(self, embedded: EmbeddedMasks, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Logits (B, Q, C), or (B, Q, C + 1) with void last."""
        found, kept = embedded.embeddings, embedded.valid
        assert kept is not None
        scores = self.region_logit_scale * self.similarities(found, text, clip)
        rows = RowLogits(
            scores[..., : len(text.row_class)] * kept[..., None],
            text.row_class,
            [self._named(cells, text, clip) for cells in embedded.context.get("dense", [])] or None,
        )
        logits = text.class_maximum(scores)
        return Classification(logits, found, kept, has_void=text.void is not None, rows=rows)

    def features(self, pixels: Tensor, pool: RegionPool, clip: CLIPEncoder) -> tuple[Tensor, Tensor | None]:
        """What regions are pooled from, of one image.

        Args:
            pixels: (3, h, w) RGB in 0..255.

        Returns:
            (W, gh, gw) float32, and with ``dense_elsewhere`` embeddings of single cells (D, gh, gw), or None.
        """
        size = (pixels.shape[-2], pixels.shape[-1])
        views = MultiResolution(size, self.crop_size, self.halves)
        if self.multi_resolution:
            seen = views.views(pixels, self.interpolation)
        else:
            seen = squashed(pixels, self.crop_size)[None]
        parts = [
            pool.features(
                clip.normalize_pixels(chunk), official_positions=self.official_positions, dense=self.dense_elsewhere
            )
            for chunk in seen.split(self.views_per_chunk)
        ]
        features = torch.cat([one for one, _ in parts]).float()
        cells = torch.cat([one for _, one in parts if one is not None]).float() if self.dense_elsewhere else None
        if not self.multi_resolution:
            return features[0], None if cells is None else cells[0]
        return views.joined(features, pool.whole_weight), None if cells is None else views.joined(cells)

    def weights(self, proposals: Proposals, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        """(Q, P) in [0, 1], how much of each cell of the grid the masks of one image show.

        Args:
            proposals: a batch of one, values from zero on; what is above one counts as one on the grid.
            size: (height, width) of the image without padding.
        """
        if self.multi_resolution:
            masks = grid_probabilities(proposals, grid, size)
        else:
            masks = grid_probabilities(proposals, self.crop_size, size)
            masks = F.interpolate(masks, grid, mode="bilinear", align_corners=False)
        masks = masks[0].flatten(1).clamp(max=1)
        return masks if proposals.valid is None else masks * proposals.valid[0, :, None]

    def regions(self, features: Tensor, weights: Tensor, pool: RegionPool) -> tuple[Tensor, Tensor, Tensor]:
        """Region tokens of one image.

        Args:
            features, weights: as the methods of these names give them.

        Returns:
            (Q, D) of unit length, zero where nothing is left of a mask; (Q,) bool where something is; and the weights
            of the cells that are left (Q, P).
        """
        with torch.autocast(features.device.type, enabled=False):
            flat = features.flatten(1).T
            if self.filter_threshold is not None:
                weights = weights * local_cells(flat, weights > 0, self.filter_threshold)
                flat = F.normalize(flat, dim=-1) if self.unit_values else flat
            shown = weights.sum(-1) > 0
            used = weights if self.soft else (weights > 0).to(weights.dtype)
            tokens = F.normalize(pool.pool(flat, used, mlp=self.mlp).float(), dim=-1)
            return tokens * shown[:, None], shown, weights

    def similarities(self, embeddings: Tensor, text: TextClassifier, clip: CLIPEncoder) -> Tensor:
        """The cosine with every text, or a sigmoid's own logit: (..., D) -> (..., T), or (..., T + 1) with void."""
        return text.row_logits(embeddings, 1.0 if clip.logit_bias is None else clip.temperature)

    def _named(self, cells: Tensor, text: TextClassifier, clip: CLIPEncoder) -> Tensor:
        """(D, h, w) sums of unit embeddings -> (T, h, w) logits."""
        return self.region_logit_scale * torch.einsum("dhw,td->thw", cells, text.embeddings.float())
