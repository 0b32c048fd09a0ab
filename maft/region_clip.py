"""CLIP fine-tuned on masked regions and their nouns (OVSeg: fine-tuning on mask-noun pairs, mask prompt tuning).

A segmentation config takes the result beside the proposer it was trained for::

    START_FROM:
      - {FILE: output/segmentation/model_final, TAKE: [vocabulary_encoder, proposer]}
      - {FILE: output/region_clip/model_final, TAKE: clip}
      - {FILE: output/region_clip/model_final, TAKE: mask_prompts, INTO: classifier.mask_prompts}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from maft.clip import CLIPEncoder, VocabularyEncoder, load_clip
from maft.clip.mask_prompts import MaskPrompts
from maft.errors import UserError
from maft.interfaces import RegionNaming
from maft.layers.crops import crop_regions
from maft.layers.distributed import gathered


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """CLIP's symmetric loss of image embeddings u and text embeddings t of unit length, with the scale s:

        -1/2 mean_i ( log softmax_j(s u_i . t_j) at j = i  +  log softmax_j(s u_j . t_i) at j = i )

    i and j run over the global batch. Pair i is the only positive of image i and of text i: equal nouns in a batch are
    each other's negatives, as in OVSeg's fine-tuning. Every process computes the whole loss, with gradients through its
    own rows; their average over the processes is the gradient of one process with the whole batch.

    Args:
        image_features, text_features: (n, D) of unit length, n pairs of this process, the same n in each.
        logit_scale: scalar, factor of the cosine (not its logarithm).

    Returns:
        scalar.
    """
    images, texts = gathered(image_features), gathered(text_features)
    logits = logit_scale * images @ texts.T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


TRAINING_RULES = ("tower", "prompts", "all")
_MOST_LOGIT_SCALE = math.log(100)


@META_ARCH_REGISTRY.register()
class RegionCLIP(RegionNaming):
    """Image tower, mask prompts or both, trained with CLIP's own loss; the text tower is frozen.

    CLIP's temperature trains along in every rule, as in the official release; segmentation uses a fixed one.

    Args:
        clip: the CLIP to fine-tune.
        mask_prompts: tokens for the patches outside a region, or None to run the plain tower.
        train: "tower" (the image tower), "prompts" or "all".
        vocabulary_encoder: of the names that regions are compared with in evaluation.
        size: side in pixels of the squares that regions are resized to in evaluation.

    Raises:
        UserError: an unknown rule, or one that trains prompts where there are none.
    """

    @configurable
    def __init__(
        self,
        *,
        clip: CLIPEncoder,
        mask_prompts: MaskPrompts | None,
        train: str,
        vocabulary_encoder: VocabularyEncoder | None = None,
        size: int = 224,
    ) -> None:
        super().__init__()
        if train not in TRAINING_RULES:
            raise UserError(f"MODEL.REGION_CLIP.TRAIN is {train!r}; choose one of: {', '.join(TRAINING_RULES)}.")
        if mask_prompts is None and train != "tower":
            raise UserError(
                f"MODEL.REGION_CLIP.TRAIN is {train} and MASK_PROMPT_DEPTH is 0: set it to the number of layers that "
                "get prompts, 3 in the paper."
            )
        self.clip = clip
        self.mask_prompts = mask_prompts
        self.rule, self.size = train, size
        if vocabulary_encoder is not None:
            self.vocabulary_encoder = vocabulary_encoder
        self.requires_grad_(False)
        self.clip.model.logit_scale.requires_grad_(True)
        if train in ("tower", "all"):
            self.clip.visual.requires_grad_(True)
        if mask_prompts is not None and train in ("prompts", "all"):
            mask_prompts.requires_grad_(True)

    @classmethod
    def from_config(cls, cfg: CfgNode, clip_weights: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Arguments from a config; ``clip_weights`` replace those that ``MODEL.CLIP.PRETRAINED`` names."""
        options = cfg.MODEL.REGION_CLIP
        if cfg.INPUT.MAPPER != "region_pairs":
            raise UserError(
                f"RegionCLIP trains on pairs of regions and nouns and INPUT.MAPPER is {cfg.INPUT.MAPPER}: set it to "
                "region_pairs and DATASETS.TRAIN to [pairs:/path/to/pairs.tsv]."
            )
        clip = load_clip(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED, weights=clip_weights)
        depth, size = options.MASK_PROMPT_DEPTH, cfg.INPUT.REGIONS.SIZE
        if size < clip.tower.stride:
            raise UserError(f"INPUT.REGIONS.SIZE is {size}, less than one patch of {clip.name}, {clip.tower.stride}.")
        prompts = MaskPrompts(clip.tower, depth, (size, size)) if depth else None
        names = cfg.MODEL.VOCABULARY
        encoder = VocabularyEncoder(
            clip.embed_dim, clip.text_width, templates=names.TEMPLATES, synonyms=names.SYNONYMS, void=False,
            logit_scale=cfg.MODEL.CLASSIFIER.LOGIT_SCALE,
        )  # fmt: skip
        return {
            "clip": clip,
            "mask_prompts": prompts,
            "train": options.TRAIN,
            "vocabulary_encoder": encoder,
            "size": size,
        }

    def forward(self, records: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The contrastive loss of a batch in training, otherwise its logits.

        Args:
            records: dicts with "region" (3, s, s) uint8 RGB, "mask" (1, s, s) bool and "text", as
                `maft.data.pairs.RegionPairMapper` makes them; the same number in every process. In evaluation regions
                and masks of any size, as `maft.data.class_regions.BoxRegionMapper` makes them.

        Returns:
            "loss_contrastive", a scalar; or "logits" (n, C).
        """
        if not self.training:
            return {"logits": torch.cat([self._named(record["region"], record["mask"]) for record in records])}
        device = self.clip.device
        regions = torch.stack([record["region"] for record in records]).to(device, non_blocking=True)
        masks = torch.stack([record["mask"] for record in records]).to(device, non_blocking=True)
        tokens = self.clip.tokenize([record["text"] for record in records])
        features = self.encode(self.clip.normalize_pixels(regions), masks.float())
        return {"loss_contrastive": self.loss(features, self.encode_text(tokens))}

    def _named(self, region: Tensor, mask: Tensor) -> Tensor:
        """(1, C) logits of a region (3, h, w) uint8 and its mask (1, h, w) bool, cut as OVSeg does in segmentation."""
        device, mean, std = self.clip.device, self.clip.pixel_mean, self.clip.pixel_std
        normalized = (region.to(device).float() - mean[:, None, None]) / std[:, None, None]
        box = torch.tensor([[0, 0, region.shape[2], region.shape[1]]], device=device)
        square = (self.size, self.size)
        shown, masks = crop_regions(normalized, mask.to(device), box, square, fill=torch.zeros_like(mean))
        return self.text().logits(self.encode(shown, masks))

    def encode(self, regions: Tensor, masks: Tensor) -> Tensor:
        """Embeds regions.

        Args:
            regions: (n, 3, s, s) normalised.
            masks: (n, 1, s, s), above 0 where a pixel belongs to the region; unused without prompts.

        Returns:
            (n, D) of unit length.
        """
        prompts = self.mask_prompts
        features = self.clip.encode_image(regions) if prompts is None else prompts(self.clip.tower, regions, masks)
        return F.normalize(features.float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """(n, D) of unit length, without gradient, of token ids (n, context length)."""
        return F.normalize(self.clip.encode_text(tokens).float(), dim=-1)

    def loss(self, regions: Tensor, texts: Tensor) -> Tensor:
        """Contrastive loss of (n, D) region and (n, D) text embeddings over the global batch: scalar."""
        # Half precision would round 100 times the cosine to steps of half a unit.
        with torch.autocast(regions.device.type, enabled=False):
            return contrastive_loss(regions, texts, self.clip.model.logit_scale.exp())

    @torch.no_grad()
    def after_optimizer_step(self) -> None:
        """Keeps the temperature between 1 and 100, CLIP's guard against instability; the trainer calls it."""
        self.clip.model.logit_scale.clamp_(0, _MOST_LOGIT_SCALE)
