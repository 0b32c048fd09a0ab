"""Mask-Adapter (Li et al., CVPR 2025): CLIP's features pooled through learned activation maps of each mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from maft.classifiers.maft_plus import ContentDependentTransfer
from maft.classifiers.mixed_masks import MixedMaskTraining
from maft.clip import CLIPEncoder
from maft.interfaces import BuildContext
from maft.layers.compiling import exporting
from maft.layers.mask_pool import weighted_mean
from maft.options import Channels, Positive, PositiveLayers
from maft.registry import CLASSIFIERS
from maft.structures import Classification, EmbeddedMasks, Images, Proposals, TextClassifier

# An exported graph cannot count its masks by the size of the image.
_EXPORTED_CHUNK = 32


class ChannelNorm(nn.Module):
    """LayerNorm over the last axis, a type of its own: the released recipe decays these weights, unlike LayerNorm's."""

    def __init__(self, channels: int, **factory: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, **factory))
        self.bias = nn.Parameter(torch.zeros(channels, **factory))

    def forward(self, values: Tensor) -> Tensor:
        """(..., channels) -> (..., channels)."""
        return F.layer_norm(values, self.weight.shape, self.weight, self.bias, eps=1e-6)


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
        channels: int,
        mask_channels: int,
        num_maps: int,
        num_blocks: int,
        chunk_megabytes: int = 512,
    ) -> None:
        super().__init__()
        self.mask_conv1 = nn.Conv2d(1, mask_channels // 4, 3, stride=2, padding=1)
        self.mask_norm1 = ChannelNorm(mask_channels // 4)
        self.mask_conv2 = nn.Conv2d(mask_channels // 4, mask_channels, 3, stride=2, padding=1)
        self.mask_norm2 = ChannelNorm(mask_channels)
        self.mask_projection = nn.Conv2d(mask_channels, embed_dim, 1)
        self.fuse = nn.Conv2d(embed_dim, channels, 1)
        self.blocks = nn.ModuleList(ConvNeXtBlock(channels, norm_layer=ChannelNorm) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(channels)
        self.to_maps = nn.Conv2d(channels, num_maps, 1)
        self.channels = channels
        self.num_maps = num_maps
        self.chunk_megabytes = chunk_megabytes

    def by_definition(self, features: Tensor, masks: Tensor) -> Tensor:
        """`forward` as the paper writes it: A = Conv(LN(ConvNeXt(Fuse(F + e(m))))), the mask m embedded to E channels.

        Args:
            features: (B, E, h, w).
            masks: (B, N, 4h, 4w) float.
        """
        count = masks.shape[1]
        embedded = self._embedded(masks.flatten(0, 1)[:, None]).permute(0, 3, 1, 2)
        repeated = features.repeat_interleave(count, dim=0)
        values = self.fuse(repeated + self.mask_projection(embedded))
        for block in self.blocks:
            values = block(values)
        values = self.norm(values.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.to_maps(values).unflatten(0, (-1, count))

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
        if exporting() or masks.shape[-2:] != size:
            masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        embedded = self._embedded(masks.flatten(0, 1)[:, None])
        weight = self.fuse.weight.flatten(1) @ self.mask_projection.weight.flatten(1)
        values = F.linear(embedded, weight).unflatten(0, (batch, -1)) + image[:, None]
        # Channels stay last in memory: a block permutes them there and back without a copy.
        values = values.flatten(0, 1).permute(0, 3, 1, 2)
        for block in self.blocks:
            values = block(values)
        values = self.norm(values.permute(0, 2, 3, 1))
        maps = F.linear(values, self.to_maps.weight.flatten(1), self.to_maps.bias)
        return maps.permute(0, 3, 1, 2).unflatten(0, (batch, -1))

    def _embedded(self, masks: Tensor) -> Tensor:
        """(n, 1, 4h, 4w) -> (n, h, w, mask_channels), before the projection to E channels."""
        embedded = F.gelu(self.mask_norm1(self.mask_conv1(masks).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return F.gelu(self.mask_norm2(self.mask_conv2(embedded).permute(0, 2, 3, 1)))

    def _masks_per_chunk(self, image: Tensor) -> int:
        if exporting():
            return _EXPORTED_CHUNK
        batch, height, width, _ = image.shape
        # The MLP's hidden layer before and after its activation, beside three tensors of block width.
        per_mask = batch * height * width * self.channels * (2 * 4 + 3) * image.element_size()
        return max(1, self.chunk_megabytes * 2**20 // per_mask)


def pool_through_maps(maps: Tensor, features: Tensor) -> Tensor:
    """Mean feature under every semantic activation map A: sum(sigmoid(A) v) / sum(sigmoid(A)) over the positions v.

    Args:
        maps: (B, N, M, h, w) before the sigmoid.
        features: (B, C, h, w).

    Returns:
        (B, N, M, C) float32.
    """
    with torch.autocast(features.device.type, enabled=False):
        # A softmax of log-sigmoids is the sigmoid divided by its sum, also where all sigmoids underflow.
        weights = F.logsigmoid(maps.float().flatten(3)).softmax(-1).view(maps.shape)
    return weighted_mean(features, weights)


@CLASSIFIERS.register()
class MaskAdapter(MixedMaskTraining):
    """Mask classifier that pools dense CLIP features through semantic activation maps instead of the mask itself.

    Args:
        embed_dim: E, width of CLIP's joint space.
        channels, mask_channels, num_maps, num_blocks, chunk_megabytes: of the network that makes the maps, see
            `MaskAdapterHead`.
        text_transfer: MAFT+'s adaptation of the texts to the image, kept frozen: none or a form of
            `ContentDependentTransfer`.
        transfer_heads: attention heads of the transfer.
        rows_in_memory_order: MAFT+'s reshape of the dense features, see `ImageTower.project_dense`.

    ``mask_threshold`` holds for predicted masks (logits); masks given as values in [0, 1] are used as they are.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        channels: Channels = 768,
        mask_channels: Annotated[int, Field(ge=4, le=1 << 16, multiple_of=4)] = 16,
        num_maps: Channels = 16,
        num_blocks: PositiveLayers = 3,
        chunk_megabytes: Positive = 512,
        text_transfer: Literal["none", "post_norm", "res_post_norm"] = "none",
        transfer_heads: Channels = 8,
        rows_in_memory_order: bool = False,
        **mixed_masks: Any,
    ) -> None:
        super().__init__(**mixed_masks)
        self.head = MaskAdapterHead(
            embed_dim,
            channels=channels,
            mask_channels=mask_channels,
            num_maps=num_maps,
            num_blocks=num_blocks,
            chunk_megabytes=chunk_megabytes,
        )
        self.text_transfer: ContentDependentTransfer | None = None
        if text_transfer != "none":
            self.text_transfer = ContentDependentTransfer(embed_dim, transfer_heads, form=text_transfer)
        self.rows_in_memory_order = rows_in_memory_order

    @classmethod
    def from_options(cls, context: BuildContext, **options: Any) -> Any:
        """Raises `UserError` when CLIP's image tower has no dense features."""
        context.clip.tower.require("dense features", "MODEL.CLASSIFIER.NAME MaskAdapter")
        return cls(context.clip.embed_dim, **options)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """The head; texts and CLIP stay as they are in both stages."""
        return self.head.parameters()

    def embed(self, images: Images, proposals: Proposals, clip: CLIPEncoder) -> EmbeddedMasks:
        """Embeddings (B, Q, D), means over the maps of a mask; a mask without any pixel is not valid."""
        dense = (proposals.clip_features or clip.dense_features(images))["dense"]
        projected = clip.tower.project_dense(dense, rows_in_memory_order=self.rows_in_memory_order)
        masks = self.adapter_masks(proposals)
        maps = self.head(projected, masks)
        embeddings = clip.tower.project_pooled(pool_through_maps(maps, dense)).mean(2)
        context = {} if self.text_transfer is None else {"dense": list(projected)}
        return EmbeddedMasks(embeddings, masks.flatten(2).any(-1), context)

    def compare(self, embedded: EmbeddedMasks, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Logits (B, Q, C), or (B, Q, C + 1) with void last, at CLIP's own temperature."""
        if self.text_transfer is not None:
            text = self.text_transfer(text, torch.stack(embedded.context["dense"]))
        logits = text.logits(embedded.embeddings, clip.temperature)
        return Classification(logits, embedded.embeddings, embedded.valid, has_void=text.void is not None)

    def adapter_masks(self, proposals: Proposals) -> Tensor:
        """(B, Q, h, w): bool where the proposer gives logits, otherwise its values."""
        return proposals.masks.sigmoid() > self.mask_threshold if proposals.are_logits else proposals.masks
