"""IP-CLIP, MAFT's mask classifier (Jiao et al., NeurIPS 2023): one pass of CLIP's ViT names every proposal.

From block L on the class token is replicated for every proposal, and an attention mask lets copy n see itself and the
patches that proposal n shows, while patches see all patches and no copy:

    softmax(Q K^T / sqrt(d) + M) V,   M = [ M_copies  M_shown ]      M_copies: 0 on the diagonal, -inf elsewhere
                                          [ -inf      0       ]      M_shown:  0 where the patch is shown, else -inf

with Q, K and V the queries, keys and values of the copies followed by the patches, and d the width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.clip import CLIPEncoder, vit
from maft.errors import UserError
from maft.interfaces import BuildContext, MaskClassifier
from maft.layers.grid_masks import grid_probabilities
from maft.options import Fraction, NonNegative, Side
from maft.registry import CLASSIFIERS
from maft.structures import Classification, Images, Proposals, TextClassifier

_ATTENTION_AND_NORMS = (".attn.", ".ln_1.", ".ln_2.")


def class_rows_by_definition(
    visual: vit.VisionTransformer, tokens: Tensor, visible: Tensor, start_layer: int
) -> Tensor:
    """`class_rows` as the paper writes it: copies and patches in one sequence under one attention mask."""
    batch, rows, patches = visible.shape
    allowed = torch.zeros(batch, 1, rows + patches, rows + patches, dtype=torch.bool, device=visible.device)
    allowed[:, 0, :rows, :rows] = torch.eye(rows, dtype=torch.bool, device=visible.device)
    allowed[:, 0, :rows, rows:] = visible
    allowed[:, 0, rows:, rows:] = True
    tokens = torch.cat([tokens[:, :1].expand(-1, rows, -1), tokens[:, 1:]], dim=1)
    for block in visual.transformer.resblocks[start_layer:]:
        tokens = vit.run_block(block, tokens, allowed)
    return tokens[:, :rows]


def class_rows(
    visual: vit.VisionTransformer, tokens: Tensor, visible: Tensor, start_layer: int, *, checkpointing: bool = False
) -> Tensor:
    """Blocks from ``start_layer`` on with one class row per proposal.

    Patches never see a class row, so their attention stays fused and without a mask, and each row's has one line.

    Args:
        tokens: (B, 1 + P, W) as block ``start_layer`` receives them.
        visible: (B, N, P) bool. A row without a visible patch attends to itself only.

    Returns:
        (B, N, W) class rows after the last block.
    """
    patches = tokens[:, 1:]
    rows = tokens[:, :1].expand(-1, visible.shape[1], -1)
    blocks = visual.transformer.resblocks[start_layer:]
    for position, block in enumerate(blocks):
        # What the last block would make of the patches is read by nobody.
        needed = position + 1 < len(blocks)
        rows, patches = vit.maybe_checkpoint(checkpointing, _class_row_block, block, rows, patches, visible, needed)
    return rows


def _class_row_block(
    block: vit.ResidualAttentionBlock, rows: Tensor, patches: Tensor, visible: Tensor, patches_needed: bool
) -> tuple[Tensor, Tensor]:
    patch_query, patch_key, patch_value = vit.attention_inputs(block, patches)
    row_query, row_key, row_value = vit.attention_inputs(block, rows)
    scale = row_query.shape[-1] ** -0.5
    to_patches = (row_query * scale) @ patch_key.transpose(-1, -2)
    to_patches = to_patches.masked_fill(~visible[:, None], float("-inf"))
    to_itself = (row_query * scale * row_key).sum(-1, keepdim=True).to(to_patches.dtype)
    # The row's own logit is always finite, so a proposal without patches cannot make the softmax undefined.
    weights = torch.cat([to_patches, to_itself], dim=-1).softmax(-1, dtype=torch.float32).to(row_value.dtype)
    attended = weights[..., :-1] @ patch_value + weights[..., -1:] * row_value
    rows = vit.finish_block(block, rows, attended)
    if patches_needed:
        attended = F.scaled_dot_product_attention(patch_query, patch_key, patch_value)
        patches = vit.finish_block(block, patches, attended)
    return rows, patches


@CLASSIFIERS.register()
class IPCLIP(MaskClassifier):
    """Image-proposal CLIP: from block ``start_layer`` on, one class token per proposal sees only its patches.

    Args:
        clip: the shared CLIP, whose image tower is copied; with ``train`` none it is run itself.
        start_layer: L, the first block with one class token per proposal.
        input_size: side of the square that images are squashed to (bilinear, aspect ratio lost); None keeps their
            padded size.
        position_align_corners: how the position embedding is resized to the token grid; True as released.
        mask_threshold: a patch belongs to a proposal when the mask, resized to the token grid, is at least this.
        train: attention_and_norms (the paper's choice: attention projections and LayerNorms of the blocks, and the
            last LayerNorm), all, or none.
        mask_crop: resize only the un-padded part of the masks to the grid although the image includes its padding,
            as FreeSeg's released inference does.
        drop_empty: mark proposals without a pixel above 0.5 as not valid, as FreeSeg's released inference does.
        activation_checkpointing: recompute the blocks in the backward pass to save memory.

    Raises:
        UserError: the tower is no plain ViT, or has no such start layer.
    """

    starts_from_clip = True

    def __init__(
        self,
        clip: CLIPEncoder,
        *,
        start_layer: NonNegative = 8,
        input_size: Side | None = 480,
        position_align_corners: bool = True,
        mask_threshold: Fraction = 0.5,
        train: Literal["attention_and_norms", "all", "none"] = "attention_and_norms",
        mask_crop: bool = False,
        drop_empty: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        visual = vit.require_plain_vit(clip.visual, "IPCLIP")
        layers = len(visual.transformer.resblocks)
        if start_layer >= layers:
            raise UserError(
                f"MODEL.CLASSIFIER.IPCLIP.START_LAYER is {start_layer}, but the image tower of {clip.name} has blocks "
                f"0 to {layers - 1}."
            )
        if input_size is not None and input_size < clip.stride:
            raise UserError(
                f"MODEL.CLASSIFIER.IPCLIP.INPUT_SIZE is {input_size}, less than one patch of {clip.name}, "
                f"{clip.stride}."
            )
        self.visual = None if train == "none" else deepcopy(visual)
        self.start_layer, self.input_size, self.position_align_corners = start_layer, input_size, position_align_corners
        self.mask_threshold, self.mask_crop, self.drop_empty = mask_threshold, mask_crop, drop_empty
        self.rule, self.activation_checkpointing = train, activation_checkpointing

    @classmethod
    def from_options(cls, context: BuildContext, **options: Any) -> Any:
        return cls(context.clip, **options)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """What the training rule fine-tunes."""
        for name, parameter in self.named_parameters():
            attention = any(part in name for part in _ATTENTION_AND_NORMS) or name.startswith("visual.ln_post.")
            if self.rule == "all" or (self.rule == "attention_and_norms" and attention):
                yield parameter

    def forward(self, images: Images, proposals: Proposals, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Logits (B, Q, C), or (B, Q, C + 1) with void last, and embeddings (B, Q, D) before normalisation."""
        pixels = self.prepare(images, clip)
        grid = (pixels.shape[-2] // clip.stride, pixels.shape[-1] // clip.stride)
        visible = self.visible_patches(images, proposals, grid)
        visual: Any = clip.visual if self.visual is None else self.visual
        embeddings = self.encode_proposals(visual, pixels, visible)
        valid = None
        if self.drop_empty:
            valid = ((proposals.probabilities(images.padded_size) > 0.5) & images.inside()).flatten(2).any(-1)
        return Classification(text.logits(embeddings), embeddings, valid, has_void=text.void is not None)

    def prepare(self, images: Images, clip: CLIPEncoder) -> Tensor:
        """Pixels as the tower takes them: CLIP's normalisation, padding zeroed after it, then squashed to a square."""
        pixels = clip.normalize(images)
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

    def encode_proposals_by_definition(self, visual: vit.VisionTransformer, pixels: Tensor, visible: Tensor) -> Tensor:
        """`encode_proposals` as the paper writes it, see `class_rows_by_definition`."""
        tokens, _ = vit.embed_patches(visual, pixels, align_corners=self.position_align_corners)
        tokens = vit.run_blocks(visual, tokens, 0, self.start_layer)
        return vit.project_tokens(visual, class_rows_by_definition(visual, tokens, visible, self.start_layer))

    def encode_proposals(self, visual: vit.VisionTransformer, pixels: Tensor, visible: Tensor) -> Tensor:
        """The tower with one class token per proposal.

        Args:
            visual: a plain CLIP ViT.
            pixels: (B, 3, h, w) normalised.
            visible: (B, Q, P) bool; a proposal without a patch keeps what its class token knew at block L - 1.

        Returns:
            (B, Q, D) embeddings, not normalised.
        """
        tokens, _ = vit.embed_patches(visual, pixels, align_corners=self.position_align_corners)
        tokens = vit.run_blocks(visual, tokens, 0, self.start_layer, checkpointing=self.activation_checkpointing)
        rows = class_rows(visual, tokens, visible, self.start_layer, checkpointing=self.activation_checkpointing)
        return vit.project_tokens(visual, rows)

    def encode_image(self, images: Images, clip: CLIPEncoder, *, teacher: bool = False) -> Tensor:
        """The tower on whole images, without masks, as self-distillation compares it: (B, D), not normalised."""
        pixels, visual = self.prepare(images, clip), None if teacher else self.visual
        return clip.encode_image(pixels, visual=visual, align_corners=self.position_align_corners)
