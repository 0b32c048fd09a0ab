"""Towers that work on a sequence of tokens, and those among them that have a class token for a pool.

Shape letters as in `maft.clip.towers.sequences`; N class rows or masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.clip.towers.base import NO_PYRAMID, Grid, ImageTower, Refusals
from maft.clip.towers.blocks import (
    attention_inputs,
    finish_block,
    maybe_checkpoint,
    run_block,
    run_block_for_first,
)
from maft.clip.towers.sequences import TokenSequence
from maft.layers.recomputing import takes_apart


class TokenTower(ImageTower):
    """A tower of transformer blocks on a sequence of tokens, whatever its pool.

    Attributes:
        blocks: its transformer blocks.
        prefix: number of tokens before the patches.
        patch_size: (height, width) in pixels.
    """

    refusals: ClassVar[Refusals] = {
        "feature pyramid": NO_PYRAMID,
        "mask prompts": "they are defined for a class token over patches: set MASK_PROMPT_DEPTH to 0, or choose a ViT "
        "with a class token such as ViT-B-16",
    }

    def __init__(self, visual: nn.Module, name: str, sequence: TokenSequence) -> None:
        super().__init__(visual, name)
        self.sequence = sequence
        self.blocks: Sequence[nn.Module] = sequence.blocks
        self.prefix, self.width, self.patch_size = sequence.prefix, sequence.width, sequence.patch_size
        self.stride = sequence.patch_size[0]
        self.head_names = sequence.head_names
        if sequence.grid(*self.image_size) != sequence.native:
            # open_clip's description of ViTamin-XL-384 says 256.
            (rows, columns), (height, width) = sequence.native, self.patch_size
            self.image_size = (rows * height, columns * width)

    @property
    def dense_channels(self) -> int:
        return self.width

    def grid(self, height: int, width: int) -> Grid:
        return self.sequence.grid(height, width)

    def patches(self, pixels: Tensor) -> tuple[Tensor, Grid]:
        """Patch embedding of normalised pixels (B, 3, h, w): tokens (B, P, W), row-major, and the grid (gh, gw)."""
        return self.sequence.patches(pixels)

    def embed(self, patches: Tensor, grid: Grid, *, align_corners: bool = False) -> Tensor:
        """Prefix tokens in front, position embedding for ``grid``, first norm: (B, P, W) -> (B, prefix + P, W)."""
        return self.sequence.embed(patches, grid, align_corners)

    def run(
        self, tokens: Tensor, grid: Grid, first: int = 0, last: int | None = None, *, checkpointing: bool = False
    ) -> Tensor:
        """Blocks ``first`` to ``last`` (exclusive; default: all) on (B, L, W) tokens, without masks."""
        rotation = self.sequence.rotation(grid)
        for block in self.blocks[first:last]:
            tokens = maybe_checkpoint(checkpointing, run_block, block, tokens, rotation)
        return tokens

    def tokens(
        self, pixels: Tensor, last: int | None = None, *, align_corners: bool = False, checkpointing: bool = False
    ) -> tuple[Tensor, Grid]:
        """Tokens (B, L, W) of normalised pixels after the blocks before ``last`` (default: all), and their grid."""
        patches, grid = self.patches(pixels)
        tokens = self.embed(patches, grid, align_corners=align_corners)
        return self.run(tokens, grid, 0, last, checkpointing=checkpointing), grid

    def dense_features(self, pixels: Tensor) -> dict[str, Tensor]:
        tokens, grid = self.tokens(pixels, 0)
        return self.dense_features_of(tokens, grid, 0)

    def dense_features_of(self, tokens: Tensor, grid: Grid, first: int) -> dict[str, Tensor]:
        """`dense_features` of tokens (B, L, W) as block ``first`` receives them: here those that the pool receives."""
        tokens = self.sequence.before_pool(self.run(tokens, grid, first))
        return {"dense": self.as_map(tokens[:, self.prefix :], grid)}

    def project_pooled(self, vectors: Tensor) -> Tensor:
        return self.sequence.after_pool(vectors)

    def attention_and_norms(self) -> Iterator[nn.Parameter]:
        for block in self.blocks:
            yield from block.attn.parameters()  # type: ignore[operator, union-attr]
            for module in block.modules():
                if isinstance(module, nn.LayerNorm):
                    yield from module.parameters()
        for norm in self.sequence.last_norms:
            yield from norm.parameters()

    def as_map(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Patch tokens (B, P, W) -> (B, W, gh, gw)."""
        return tokens.transpose(1, 2).unflatten(2, grid)


class ClassTokenTower(TokenTower):
    """The class token is the image.

    Of a mask: from block ``start_layer`` on a copy of it that sees itself and the patches the mask shows (IP-CLIP).
    Dense features are what the last block makes of the patches when each attends to itself alone (MaskCLIP, Zhou et
    al., ECCV 2022): with value path V and output projection O of the attention, y = x + O(V(norm(x))) and then the
    block's MLP with its residual. The last norm and the projection follow the pool.
    """

    kind = "class token"
    refusals: ClassVar[Refusals] = {"feature pyramid": NO_PYRAMID}

    def __init__(self, visual: nn.Module, name: str, sequence: TokenSequence) -> None:
        super().__init__(visual, name, sequence)
        self.masked_blocks = len(self.blocks)
        modules = {module: name for name, module in visual.named_modules()}
        unread = ("q_proj", "k_proj", "q_norm", "k_norm")
        attention = modules[self.blocks[-1].attn]  # type: ignore[index]
        norms = (f"{modules[norm]}." for norm in sequence.last_norms)
        self.head_names = (*sequence.head_names, *norms, *(f"{attention}.{part}." for part in unread))

    def project(self, rows: Tensor) -> Tensor:
        """Class rows after the last block (..., W) -> (..., D), not normalised."""
        return self.sequence.after_pool(self.sequence.before_pool(rows))

    def project_pooled(self, vectors: Tensor) -> Tensor:
        return self.project(vectors)

    def encode(self, pixels: Tensor, *, align_corners: bool = False) -> Tensor:
        tokens, grid = self.tokens(pixels, 0, align_corners=align_corners)
        return self.embedding_of(tokens, grid, 0)

    def embedding_of(self, tokens: Tensor, grid: Grid, first: int, *, checkpointing: bool = False) -> Tensor:
        """`encode` of tokens (B, L, W) as block ``first`` receives them: (B, D).

        Nothing but the class token is read of the last block, which makes no other.
        """
        tokens = self.run(tokens, grid, first, len(self.blocks) - 1, checkpointing=checkpointing)
        rotation = self.sequence.rotation(grid)
        return self.project(maybe_checkpoint(checkpointing, run_block_for_first, self.blocks[-1], tokens, rotation))

    def dense_features_of(self, tokens: Tensor, grid: Grid, first: int) -> dict[str, Tensor]:
        tokens = self.run(tokens, grid, first, len(self.blocks) - 1)
        patches, block = tokens[:, self.prefix :], self.blocks[-1]
        _, _, value = attention_inputs(block, patches)
        return {"dense": self.as_map(finish_block(block, patches, value), grid)}

    def encode_masked(
        self,
        pixels: Tensor,
        visible: Tensor,
        start_layer: int,
        *,
        align_corners: bool = False,
        checkpointing: bool = False,
    ) -> Tensor:
        tokens, grid = self.tokens(pixels, start_layer, align_corners=align_corners, checkpointing=checkpointing)
        return self.project(self.class_rows(tokens, grid, visible, start_layer, checkpointing=checkpointing))

    def encode_masked_and_whole(
        self,
        pixels: Tensor,
        visible: Tensor,
        start_layer: int,
        *,
        align_corners: bool = False,
        checkpointing: bool = False,
    ) -> tuple[Tensor, Tensor]:
        tokens, grid = self.tokens(pixels, start_layer, align_corners=align_corners, checkpointing=checkpointing)
        rows = self.project(self.class_rows(tokens, grid, visible, start_layer, checkpointing=checkpointing))
        return rows, self.embedding_of(tokens, grid, start_layer, checkpointing=checkpointing)

    def class_rows(
        self,
        tokens: Tensor,
        grid: Grid,
        bias: Tensor | Sequence[Tensor],
        start_layer: int,
        *,
        rows: Tensor | None = None,
        rotation: Tensor | None = None,
        sees_itself: bool = True,
        keeps_class_token: bool = False,
        checkpointing: bool = False,
    ) -> Tensor:
        """Blocks from ``start_layer`` on with one class row per mask.

        Patches never see a class row, so their attention stays fused and without a mask, and each row's has one line.

        Args:
            tokens: (B, 1 + P, W) as block ``start_layer`` receives them.
            bias: which patches a row sees, (B, N, P) bool, or what is added to its attention logits,
                (B, 1 or heads, N, P) float; of all these blocks or a sequence with one for each.
            rows: (B, N, W) what they start from; None: the class token.
            rotation: rotary positions of the patches, (P, n) or (B, 1, P, n); None: the tower's own.
            sees_itself: a row attends to itself as well, so that one without a visible patch is defined; False: to
                patches alone (MaskCLIP++), and to all where it is shown none.
            keeps_class_token: the class token goes on beside the patches, which see it as no row does (SAN,
                MaskCLIP++); False: its copies replace it (IP-CLIP).

        Returns:
            (B, N, W) class rows after the last block.
        """
        blocks = self.blocks[start_layer:]
        biases = _bias_of_blocks(bias, len(blocks))
        rows = tokens[:, :1].expand(-1, biases[0].shape[-2], -1) if rows is None else rows
        unseen = int(keeps_class_token)
        others = tokens[:, 1 - unseen :]
        rotation = self.sequence.rotation(grid) if rotation is None else rotation
        for position, (block, shown) in enumerate(zip(blocks, biases, strict=True)):
            # What the last block would make of the patches is read by nobody.
            needed = position + 1 < len(blocks)
            arguments = (block, rows, others, shown, rotation, unseen, sees_itself, needed)
            rows, others = maybe_checkpoint(checkpointing, _class_row_block, *arguments)
        return rows

    def class_rows_by_definition(
        self,
        tokens: Tensor,
        grid: Grid,
        bias: Tensor | Sequence[Tensor],
        start_layer: int,
        *,
        rows: Tensor | None = None,
        sees_itself: bool = True,
        keeps_class_token: bool = False,
    ) -> Tensor:
        """`class_rows` as the papers write it: rows and patches in one sequence under one attention mask."""
        blocks = self.blocks[start_layer:]
        biases = _bias_of_blocks(bias, len(blocks))
        number, hidden = biases[0].shape[-2], float("-inf")
        rows = tokens[:, :1].expand(-1, number, -1) if rows is None else rows
        tokens = torch.cat([rows, tokens[:, 1 - int(keeps_class_token) :]], dim=1)
        rotation = self.sequence.rotation(grid)
        for block, shown in zip(blocks, biases, strict=True):
            if shown.dtype == torch.bool:
                shown = (shown if sees_itself else _all_where_none(shown))[:, None]
                shown = torch.zeros(shown.shape, device=shown.device).masked_fill(~shown, hidden)
            mask = shown.new_zeros(*shown.shape[:2], tokens.shape[1], tokens.shape[1])
            mask[..., :number] = hidden
            if sees_itself:
                mask[..., :number, :number].diagonal(dim1=-2, dim2=-1).zero_()
            mask[..., :number, number : tokens.shape[1] - shown.shape[-1]] = hidden
            mask[..., :number, tokens.shape[1] - shown.shape[-1] :] = shown
            tokens = run_block(block, tokens, rotation, mask)
        return tokens[:, :number]


def _bias_of_blocks(bias: Tensor | Sequence[Tensor], blocks: int) -> Sequence[Tensor]:
    return [bias] * blocks if isinstance(bias, Tensor) else bias


def _all_where_none(visible: Tensor) -> Tensor:
    return visible | ~visible.any(-1, keepdim=True)


@takes_apart
def _class_row_block(
    block: nn.Module,
    rows: Tensor,
    others: Tensor,
    bias: Tensor,
    rotation: Tensor | None,
    unseen: int,
    sees_itself: bool,
    others_needed: bool,
) -> tuple[Tensor, Tensor]:
    """One block on rows (B, N, W) and the other tokens (B, unseen + P, W), the first of which no row sees."""
    query, key, value = attention_inputs(block, others, rotation)
    row_query, row_key, row_value = attention_inputs(block, rows)
    scale = row_query.shape[-1] ** -0.5
    logits = (row_query * scale) @ key[:, :, unseen:].transpose(-1, -2)
    if bias.dtype == torch.bool:
        visible = bias if sees_itself else _all_where_none(bias)
        logits = logits.masked_fill(~visible[:, None], float("-inf"))
    else:
        logits = logits + bias
    if sees_itself:
        # The row's own logit is always finite, so a proposal without patches cannot make the softmax undefined.
        to_itself = (row_query * scale * row_key).sum(-1, keepdim=True).to(logits.dtype)
        logits = torch.cat([logits, to_itself], dim=-1)
    weights = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(row_value.dtype)
    seen = value[:, :, unseen:]
    attended = weights[..., : seen.shape[2]] @ seen
    if sees_itself:
        attended = attended + weights[..., -1:] * row_value
    rows = finish_block(block, rows, attended)
    if others_needed:
        others = finish_block(block, others, F.scaled_dot_product_attention(query, key, value))
    return rows, others
