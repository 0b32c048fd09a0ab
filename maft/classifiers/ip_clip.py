"""IP-CLIP, MAFT's mask classifier: one CLIP ViT pass names every proposal (MAFT, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.clip import CLIPEncoder
from maft.clip.vit import embed_patches, encode_vit, project_tokens, require_plain_vit, run_blocks, run_class_rows
from maft.errors import UserError
from maft.layers.grid_masks import grid_probabilities
from maft.registry import CLASSIFIERS, BuildContext
from maft.structures import Classification, Images, Proposals, TextClassifier

TRAINING_RULES = ("attention_and_norms", "all", "none")
_ATTENTION_AND_NORMS = (".attn.", ".ln_1.", ".ln_2.")


@CLASSIFIERS.register("IPCLIP")
class IPCLIP(nn.Module):
    """Image-proposal CLIP: from block ``start_layer`` on, one class token per proposal sees only its patches.

    Args:
        visual: the tower to fine-tune, a copy of CLIP's; None runs the shared frozen tower given at call time.
        start_layer: L, the first block with one class token per proposal.
        input_size: side of the square that images are squashed to (bilinear, aspect ratio lost); None keeps their
            padded size.
        position_align_corners: how the position embedding is resized to the token grid; True as released.
        mask_threshold: a patch belongs to a proposal when the mask, resized to the token grid, is at least this.
        train: "attention_and_norms" (section 3.4: attention projections and LayerNorms of the blocks, and the last
            LayerNorm), "all", or "none".
        mask_crop: resize only the un-padded part of the masks to the grid although the image includes its padding,
            as FreeSeg's released inference does.
        drop_empty: mark proposals without a pixel above 0.5 as not valid, as FreeSeg's released inference does.
        activation_checkpointing: recompute the blocks in the backward pass to save memory.

    Raises:
        UserError: an unknown training rule, or a start layer outside the tower.
    """

    def __init__(
        self,
        visual: nn.Module | None,
        *,
        start_layer: int = 8,
        input_size: int | None = 480,
        position_align_corners: bool = True,
        mask_threshold: float = 0.5,
        train: str = "attention_and_norms",
        mask_crop: bool = False,
        drop_empty: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if train not in TRAINING_RULES:
            raise UserError(f"MODEL.CLASSIFIER.IPCLIP.TRAIN is {train!r}; choose one of: {', '.join(TRAINING_RULES)}.")
        self.visual = visual
        self.start_layer = start_layer
        self.input_size = input_size
        self.position_align_corners = position_align_corners
        self.mask_threshold = mask_threshold
        self.rule = train
        self.mask_crop = mask_crop
        self.drop_empty = drop_empty
        self.activation_checkpointing = activation_checkpointing
        self.requires_grad_(False)
        for parameter in self.trainable_parameters():
            parameter.requires_grad_(True)

    @classmethod
    def from_options(
        cls,
        context: BuildContext,
        *,
        start_layer: int = 8,
        input_size: int | None = 480,
        position_align_corners: bool = True,
        mask_threshold: float = 0.5,
        train: str = "attention_and_norms",
        mask_crop: bool = False,
        drop_empty: bool = False,
        activation_checkpointing: bool = False,
    ) -> IPCLIP:
        """Copies the image tower of ``context.clip``, unless nothing in it trains."""
        visual = require_plain_vit(context.clip.visual, "IPCLIP")
        layers = len(visual.transformer.resblocks)
        if not 0 <= start_layer < layers:
            raise UserError(
                f"MODEL.CLASSIFIER.IPCLIP.START_LAYER is {start_layer}, but the image tower of {context.clip.name} "
                f"has blocks 0 to {layers - 1}."
            )
        return cls(
            None if train == "none" else deepcopy(visual),
            start_layer=start_layer,
            input_size=input_size,
            position_align_corners=position_align_corners,
            mask_threshold=mask_threshold,
            train=train,
            mask_crop=mask_crop,
            drop_empty=drop_empty,
            activation_checkpointing=activation_checkpointing,
        )

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """What the training rule fine-tunes (section 3.4)."""
        for name, parameter in self.named_parameters():
            attention = any(part in name for part in _ATTENTION_AND_NORMS) or name.startswith("visual.ln_post.")
            if self.rule == "all" or (self.rule == "attention_and_norms" and attention):
                yield parameter

    def forward(self, images: Images, proposals: Proposals, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Names every proposal.

        Returns:
            logits (B, Q, C), or (B, Q, C + 1) with void last, and embeddings (B, Q, D) before normalisation.
        """
        pixels = self.prepare(images, clip)
        grid = (pixels.shape[-2] // clip.patch_size, pixels.shape[-1] // clip.patch_size)
        visible = self.visible_patches(images, proposals, grid)
        embeddings = self.encode_proposals(self._tower(clip), pixels, visible)
        # Bfloat16 has steps of half a unit at 100 times the cosine, too coarse for a softmax.
        with torch.autocast(pixels.device.type, enabled=False):
            logits = text.logits(embeddings.float())
        valid = self._not_empty(images, proposals) if self.drop_empty else None
        return Classification(logits, embeddings, valid, has_void=text.void is not None)

    def prepare(self, images: Images, clip: CLIPEncoder) -> Tensor:
        """Pixels as the tower takes them: CLIP's normalisation, padding zeroed after it, then squashed to a square."""
        pixels = images.normalized(clip.pixel_mean, clip.pixel_std)
        if self.input_size is None:
            return pixels
        return F.interpolate(pixels, size=(self.input_size, self.input_size), mode="bilinear", align_corners=False)

    def visible_patches(self, images: Images, proposals: Proposals, grid: tuple[int, int]) -> Tensor:
        """(B, Q, P) bool: which patches of the token grid, row-major, each proposal shows."""
        if self.mask_crop:
            values = torch.cat(
                [grid_probabilities(proposals.image(index), grid, size) for index, size in enumerate(images.sizes)]
            )
        else:
            values = grid_probabilities(proposals, grid)
        return (values >= self.mask_threshold).flatten(2)

    def encode_proposals(self, visual: nn.Module, pixels: Tensor, visible: Tensor) -> Tensor:
        """The tower with one class token per proposal.

        Args:
            visual: a plain CLIP ViT.
            pixels: (B, 3, h, w) normalised.
            visible: (B, Q, P) bool; a proposal without a patch keeps what its class token knew at block L - 1.

        Returns:
            (B, Q, D) embeddings, not normalised.
        """
        tokens, _ = embed_patches(visual, pixels, align_corners=self.position_align_corners)
        tokens = run_blocks(visual, tokens, 0, self.start_layer, checkpointing=self.activation_checkpointing)
        rows = run_class_rows(visual, tokens, visible, self.start_layer, checkpointing=self.activation_checkpointing)
        return project_tokens(visual, rows)

    def encode_image(self, images: Images, clip: CLIPEncoder, *, teacher: bool = False) -> Tensor:
        """The tower on whole images, without masks, as self-distillation compares it: (B, D), not normalised.

        Args:
            teacher: run CLIP's own frozen tower on the same pixels instead of the fine-tuned one.
        """
        visual = clip.visual if teacher else self._tower(clip)
        return encode_vit(visual, self.prepare(images, clip), align_corners=self.position_align_corners)

    def _tower(self, clip: CLIPEncoder) -> nn.Module:
        return clip.visual if self.visual is None else self.visual

    @staticmethod
    def _not_empty(images: Images, proposals: Proposals) -> Tensor:
        """(B, Q) bool: some pixel of the image, without its padding, is above 0.5."""
        valid = [
            (proposals.image(index).probabilities(proposals.padded_size)[:, :, :height, :width] > 0.5)
            .flatten(2)
            .any(-1)
            for index, (height, width) in enumerate(images.sizes)
        ]
        return torch.cat(valid)
