"""Mask-Adapter (Li et al., CVPR 2025): CLIP's features pooled through learned activation maps of each mask."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.classifiers.maft_plus import ContentDependentTransfer, build_text_transfer
from maft.classifiers.mask_pooling import dense_features, require_dense_features, temperature
from maft.classifiers.mixed_masks import MixedMasks
from maft.clip import CLIPEncoder
from maft.errors import UserError
from maft.registry import CLASSIFIERS, BuildContext
from maft.structures import Classification, Images, Proposals, Targets, TextClassifier


class ChannelNorm(nn.Module):
    """LayerNorm over the last axis, a type of its own: the released recipe decays these weights, unlike LayerNorm's."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, values: Tensor) -> Tensor:
        """(..., channels) -> (..., channels)."""
        return F.layer_norm(values, self.weight.shape, self.weight, self.bias, self.eps)


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution and an MLP with layer scale, residual (ConvNeXt, section 2), channels last."""

    def __init__(self, channels: int, layer_scale: float = 1e-6) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = ChannelNorm(channels)
        self.expand = nn.Linear(channels, 4 * channels)
        self.reduce = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, values: Tensor) -> Tensor:
        """(N, h, w, channels) -> (N, h, w, channels)."""
        change = self.depthwise(values.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        change = self.reduce(F.gelu(self.expand(self.norm(change))))
        return values + self.gamma * change


class MaskAdapterHead(nn.Module):
    """Semantic activation maps of masks: the embedded mask is added to the image features and refined.

    The 1x1 convolution that fuses the two is linear, so its image part is computed once per image, and its mask part
    together with the mask's own 1x1 convolution as one small matrix. Nothing wider than ``channels`` is ever repeated
    per mask.

    Args:
        embed_dim: E, width of the image features (CLIP's joint space).
        channels: width of the ConvNeXt blocks.
        mask_channels: channels of the embedded mask before its projection to E, a multiple of 4.
        num_maps: M, activation maps per mask.
        num_blocks: ConvNeXt blocks.
        chunk_megabytes: at inference, masks go through in groups whose activations take about this much memory.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        channels: int = 768,
        mask_channels: int = 16,
        num_maps: int = 16,
        num_blocks: int = 3,
        chunk_megabytes: int = 512,
    ) -> None:
        super().__init__()
        self.mask_conv1 = nn.Conv2d(1, mask_channels // 4, 3, stride=2, padding=1)
        self.mask_norm1 = ChannelNorm(mask_channels // 4)
        self.mask_conv2 = nn.Conv2d(mask_channels // 4, mask_channels, 3, stride=2, padding=1)
        self.mask_norm2 = ChannelNorm(mask_channels)
        self.mask_projection = nn.Conv2d(mask_channels, embed_dim, 1)
        self.fuse = nn.Conv2d(embed_dim, channels, 1)
        self.blocks = nn.ModuleList(ConvNeXtBlock(channels) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(channels)
        self.to_maps = nn.Conv2d(channels, num_maps, 1)
        self.channels = channels
        self.num_maps = num_maps
        self.chunk_megabytes = chunk_megabytes

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Activation maps before the sigmoid.

        Args:
            features: (B, E, h, w) dense features in CLIP's joint space.
            masks: (B, N, height, width) bool, or float in [0, 1], of any size; resized bilinearly
                (``align_corners=False``) to (4h, 4w).

        Returns:
            (B, N, M, h, w).
        """
        batch, count = masks.shape[:2]
        if batch * count == 0:
            return features.new_zeros(batch, count, self.num_maps, *features.shape[-2:])
        image = self._image_part(features)
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters()):
            return self._maps(image, masks)
        chunks = masks.split(self._masks_per_chunk(image), dim=1)
        return torch.cat([self._maps(image, chunk) for chunk in chunks], dim=1)

    def _image_part(self, features: Tensor) -> Tensor:
        """(B, E, h, w) -> (B, h, w, channels): the fused features of a mask that is embedded as zero."""
        weight = self.fuse.weight.flatten(1)
        bias = F.linear(self.mask_projection.bias[None], weight, self.fuse.bias)[0]  # type: ignore[index]
        return F.linear(features.permute(0, 2, 3, 1), weight, bias)

    def _maps(self, image: Tensor, masks: Tensor) -> Tensor:
        batch, height, width, _ = image.shape
        size = (4 * height, 4 * width)
        masks = masks.to(image.dtype)
        if masks.shape[-2:] != size:
            masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        embedded = self.mask_conv1(masks.flatten(0, 1)[:, None]).permute(0, 2, 3, 1)
        embedded = F.gelu(self.mask_norm1(embedded)).permute(0, 3, 1, 2)
        embedded = F.gelu(self.mask_norm2(self.mask_conv2(embedded).permute(0, 2, 3, 1)))
        weight = self.fuse.weight.flatten(1) @ self.mask_projection.weight.flatten(1)
        values = F.linear(embedded, weight).unflatten(0, (batch, -1)) + image[:, None]
        values = values.flatten(0, 1)
        for block in self.blocks:
            values = block(values)
        maps = F.linear(self.norm(values), self.to_maps.weight.flatten(1), self.to_maps.bias)
        return maps.permute(0, 3, 1, 2).unflatten(0, (batch, -1))

    def _masks_per_chunk(self, image: Tensor) -> int:
        batch, height, width, _ = image.shape
        # The MLP's hidden layer before and after its activation, beside three tensors of block width.
        per_mask = batch * height * width * self.channels * (2 * 4 + 3) * image.element_size()
        return max(1, self.chunk_megabytes * 2**20 // per_mask)


def pool_through_maps(maps: Tensor, features: Tensor) -> Tensor:
    """Mean feature under every activation map, weighted by its sigmoid (Mask-Adapter, equation 4).

    Args:
        maps: (B, N, M, h, w) before the sigmoid.
        features: (B, C, h, w).

    Returns:
        (B, N, M, C) float32.
    """
    with torch.autocast(features.device.type, enabled=False):
        # A softmax of log-sigmoids is the sigmoid divided by its sum, also where all sigmoids underflow.
        weights = F.logsigmoid(maps.float().flatten(3)).softmax(-1)
        pooled = weights.flatten(1, 2) @ features.float().flatten(2).transpose(1, 2)
        return pooled.unflatten(1, maps.shape[1:3])


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
