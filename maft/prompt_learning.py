"""Prompts learned on regions of known classes (ZSSeg and FreeSeg: the stage before segmentation).

A segmentation config takes the result, for both branches or for one of them, and keeps it as it is::

    VOCABULARY: {TEMPLATES: learned, PROMPTS: {FROZEN: true}}
    START_FROM:
      - {FILE: output/prompts/model_final, TAKE: vocabulary_encoder.prompts}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from maft.clip import CLIPEncoder, VocabularyEncoder, load_clip
from maft.clip.prompt_learner import PromptLearner
from maft.clip.vocabulary import LEARNED
from maft.data.catalog import vocabulary as catalogue_vocabulary
from maft.errors import UserError
from maft.interfaces import RegionNaming
from maft.structures import Vocabulary


@META_ARCH_REGISTRY.register()
class PromptLearning(RegionNaming):
    """CLIP names regions with learned prompts; nothing but the prompts trains.

    With u the embedding of a region and t_c the text of class c, both of unit length, and the factor s of the cosine,
    the loss is the cross-entropy of softmax_c(s u . t_c) over the classes of the training set, without a no-object
    column.

    Args:
        clip: frozen.
        vocabulary_encoder: with learned prompts.
        vocabulary: the classes that samples are labelled with.
        fill: what CLIP sees outside a region: its pixel mean, or as released the value of that mean where normalised
            pixels belong, a bright grey.
        align_corners: how position embeddings are resized for regions of another size (FreeSeg: True).
    """

    @configurable
    def __init__(
        self,
        *,
        clip: CLIPEncoder,
        vocabulary_encoder: VocabularyEncoder,
        vocabulary: Vocabulary,
        fill: Literal["mean", "mean_value"] = "mean",
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.clip, self.vocabulary_encoder, self.vocabulary = clip, vocabulary_encoder, vocabulary
        self.fill, self.align_corners = fill, align_corners

    @classmethod
    def from_config(cls, cfg: CfgNode, clip_weights: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Arguments from a config; ``clip_weights`` replace those that ``MODEL.CLIP.PRETRAINED`` names."""
        names, options = cfg.MODEL.VOCABULARY, cfg.MODEL.PROMPT_LEARNING
        if cfg.INPUT.MAPPER != "class_regions":
            raise UserError(
                f"PromptLearning trains on regions of classes and INPUT.MAPPER is {cfg.INPUT.MAPPER}: set it to "
                "class_regions."
            )
        if names.TEMPLATES != LEARNED or names.PROMPTS.FROZEN:
            raise UserError(
                "PromptLearning has no prompts to train: set MODEL.VOCABULARY.TEMPLATES to learned and "
                "MODEL.VOCABULARY.PROMPTS.FROZEN to False."
            )
        clip = load_clip(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED, weights=clip_weights)
        for key in ("SIZE", "HEIGHT"):
            # A height of 0 stands for the size.
            if 0 < (side := cfg.INPUT.REGIONS[key]) < clip.tower.stride:
                raise UserError(
                    f"INPUT.REGIONS.{key} is {side}, less than one patch of {clip.name}, {clip.tower.stride}."
                )
        prompts = PromptLearner(clip, **{key.lower(): value for key, value in names.PROMPTS.items()})
        encoder = VocabularyEncoder(
            clip.embed_dim, clip.text_width, templates=LEARNED, prompts=prompts, synonyms=names.SYNONYMS, void=False,
            logit_scale=cfg.MODEL.CLASSIFIER.LOGIT_SCALE,
        )  # fmt: skip
        datasets = cfg.DATASETS.TRAIN or cfg.DATASETS.TEST
        if not datasets:
            raise UserError("PromptLearning needs class names: set DATASETS.TRAIN.")
        return {
            "clip": clip,
            "vocabulary_encoder": encoder,
            "vocabulary": catalogue_vocabulary(datasets[0], names.CLASS_NAMES),
            "fill": options.FILL,
            "align_corners": options.ALIGN_CORNERS,
        }

    def forward(self, records: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The loss of a batch in training, otherwise its logits.

        Args:
            records: dicts with "region" (3, h, w) uint8, "mask" (1, h, w) bool, all of one size, and "category", an
                index into the vocabulary, as `maft.data.class_regions.ClassRegionMapper` makes them.

        Returns:
            "loss_ce", a scalar; or "logits" (n, C).
        """
        device = self.clip.device
        regions = torch.stack([record["region"] for record in records]).to(device, non_blocking=True)
        masks = torch.stack([record["mask"] for record in records]).to(device, non_blocking=True)
        logits = self.logits(regions, masks)
        if not self.training:
            return {"logits": logits}
        return {"loss_ce": F.cross_entropy(logits, torch.tensor([r["category"] for r in records], device=device))}

    def logits(self, regions: Tensor, masks: Tensor) -> Tensor:
        """(n, C) of regions (n, 3, h, w) in 0..255 and their masks (n, 1, h, w) bool."""
        features = self.encode(self.shown(regions, masks))
        return self.text().logits(features)

    def shown(self, regions: Tensor, masks: Tensor) -> Tensor:
        """What CLIP sees, (n, 3, h, w) normalised: the fill outside the masks."""
        pixels = self.clip.normalize_pixels(regions)
        fill = self.clip.pixel_mean[:, None, None] / 255 if self.fill == "mean_value" else 0.0
        return torch.where(masks, pixels, fill)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """(n, D), not normalised, without gradient."""
        return self.clip.tower.encode(pixels, align_corners=self.align_corners).float()
