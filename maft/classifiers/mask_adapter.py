"""Mask-Adapter (Li et al., CVPR 2025): CLIP's features pooled through learned activation maps of each mask."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from maft.classifiers.dense_features import dense_features, require_dense_features, temperature
from maft.classifiers.mask_adapter_head import MaskAdapterHead, pool_through_maps
from maft.classifiers.mixed_masks import MixedMasks
from maft.classifiers.text_transfer import ContentDependentTransfer, build_text_transfer
from maft.clip import CLIPEncoder
from maft.errors import UserError
from maft.registry import CLASSIFIERS, BuildContext
from maft.structures import Classification, Images, Proposals, Targets, TextClassifier


@CLASSIFIERS.register()
class MaskAdapter(nn.Module):
    """Mask classifier that pools dense CLIP features through semantic activation maps instead of the mask itself.

    Args:
        head: makes the maps.
        mixed_masks: chooses the masks of the second training stage.
        mask_threshold: mask probability above which a pixel of a predicted mask (logits) belongs to it; masks given
            as values in [0, 1] are used as they are, binary or soft.
        text_transfer: MAFT+'s adaptation of the texts to the image, kept frozen, or None.
        rows_in_memory_order: MAFT+'s reshape of the dense features, see `maft.clip.dense.project_dense`.
    """

    def __init__(
        self,
        head: MaskAdapterHead,
        mixed_masks: MixedMasks,
        *,
        mask_threshold: float = 0.5,
        text_transfer: ContentDependentTransfer | None = None,
        rows_in_memory_order: bool = False,
    ) -> None:
        super().__init__()
        self.head = head
        self.mixed_masks = mixed_masks
        self.mask_threshold = mask_threshold
        self.text_transfer = text_transfer
        self.rows_in_memory_order = rows_in_memory_order
        if text_transfer is not None:
            text_transfer.requires_grad_(False)

    @classmethod
    def from_options(
        cls,
        context: BuildContext,
        *,
        channels: int = 768,
        mask_channels: int = 16,
        num_maps: int = 16,
        num_blocks: int = 3,
        mask_threshold: float = 0.5,
        num_ground_truth: int = 16,
        num_matched: int = 8,
        iou_threshold: float = 0.7,
        match_threshold: float = 0.4,
        threshold_free_slots: bool = False,
        text_transfer: str = "none",
        transfer_heads: int = 8,
        rows_in_memory_order: bool = False,
        chunk_megabytes: int = 512,
    ) -> MaskAdapter:
        """Assembles the classifier; ``text_transfer`` is ``"none"`` or a form of `ContentDependentTransfer`.

        Raises:
            UserError: CLIP is a ViT, or an option is out of range.
        """
        require_dense_features(context.clip, "MaskAdapter")
        node = "MODEL.CLASSIFIER.MaskAdapter"
        thresholds = {"MASK": mask_threshold, "IOU": iou_threshold, "MATCH": match_threshold}
        for name, threshold in thresholds.items():
            if not 0 <= threshold <= 1:
                raise UserError(f"{node}.{name}_THRESHOLD is {threshold}, but it must lie between 0 and 1.")
        if num_ground_truth < 0 or num_matched < 0 or num_ground_truth + num_matched == 0:
            raise UserError(f"{node}: NUM_GROUND_TRUTH and NUM_MATCHED must not be negative, nor both 0.")
        if mask_channels < 4 or mask_channels % 4:
            raise UserError(f"{node}.MASK_CHANNELS is {mask_channels}, but it must be a multiple of 4.")
        head = MaskAdapterHead(
            context.clip.embed_dim,
            channels=channels,
            mask_channels=mask_channels,
            num_maps=num_maps,
            num_blocks=num_blocks,
            chunk_megabytes=chunk_megabytes,
        )
        mixed = MixedMasks(
            num_ground_truth, num_matched, iou_threshold, match_threshold, mask_threshold, threshold_free_slots
        )
        transfer = build_text_transfer(text_transfer, context.clip.embed_dim, transfer_heads, f"{node}.TEXT_TRANSFER")
        return cls(
            head,
            mixed,
            mask_threshold=mask_threshold,
            text_transfer=transfer,
            rows_in_memory_order=rows_in_memory_order,
        )

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """The head; texts and CLIP stay as they are in both stages (section 3.3)."""
        return self.head.parameters()

    def training_proposals(self, proposals: Proposals, targets: list[Targets]) -> Proposals:
        """Ground-truth proposals as they come (warm-up stage); predicted ones become mixed masks (second stage)."""
        return proposals if proposals.labels is not None else self.mixed_masks(proposals, targets)

    def forward(self, images: Images, proposals: Proposals, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Names every proposal.

        Returns:
            logits (B, Q, C), or (B, Q, C + 1) with void last, scaled by CLIP's own temperature; embeddings
            (B, Q, D), the mean over the maps of a mask; a mask without any pixel is not valid.
        """
        dense = dense_features(images, proposals, clip)
        projected = clip.project_dense(dense, rows_in_memory_order=self.rows_in_memory_order)
        masks = self.adapter_masks(proposals)
        maps = self.head(projected, masks)
        embeddings = clip.project_pooled(pool_through_maps(maps, dense)).mean(2)
        if self.text_transfer is not None:
            text = self.text_transfer(text, projected)
        with torch.autocast(dense.device.type, enabled=False):
            logits = text.logits(embeddings.float(), temperature(clip))
        return Classification(logits, embeddings, masks.flatten(2).any(-1), has_void=text.void is not None)

    def adapter_masks(self, proposals: Proposals) -> Tensor:
        """(B, Q, h, w): bool where the proposer gives logits, otherwise its values."""
        return proposals.masks.sigmoid() > self.mask_threshold if proposals.are_logits else proposals.masks
