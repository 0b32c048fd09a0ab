"""SAN as a proposer (Side Adapter Network, Xu et al., CVPR 2023): masks beside CLIP, and names from within it.

A light ViT on the whole image reads features of CLIP, which sees a small copy. It proposes masks and, for every mask,
head and patch, a bias. From block ``start_layer`` on CLIP is run with one copy of its class token for every mask, to
whose attention towards the patches the bias is added: what comes out names the mask. Masks and names train together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from maft.clip import CLIPEncoder
from maft.clip.class_rows import bias_on_grid, class_token_tower, embeddings_of_rows, scaled_pixels
from maft.clip.towers.base import Grid
from maft.clip.towers.tokens import ClassTokenTower
from maft.errors import UserError
from maft.interfaces import BuildContext
from maft.options import Channels, NonNegative, Positive, PositiveLayers, Side, Weight
from maft.proposals.criterion import SetPredictionProposer
from maft.proposals.side_adapter import SideAdapter
from maft.registry import PROPOSERS
from maft.structures import Images, Proposals, TextClassifier

# Places where features of CLIP are added: blocks before them in CLIP, blocks before them in the side adapter.
Places = Annotated[tuple[tuple[NonNegative, NonNegative], ...], Field(min_length=1)]
Blocks = Annotated[tuple[Positive, ...], Field(min_length=1)]
Scale = Annotated[float, Field(gt=0, le=1)]
_NODE = "MODEL.PROPOSER.SAN"


@PROPOSERS.register()
class SAN(SetPredictionProposer):
    """Proposer: masks of a side adapter with class logits from CLIP's last blocks, biased for every mask.

    Args:
        clip: the shared CLIP; of it the position embedding trains.
        num_queries: how many there are, and so proposals of an image (Q).
        width: of the side adapter.
        depth: its number of blocks.
        heads: its attention heads.
        patch_size: its patches, and so the stride of the masks, in pixels.
        image_size: side of the square images that its position embedding is made for.
        embed_dim: width that queries and pixels are compared in.
        hidden_dim: of the MLPs before that.
        mlp_layers: of these.
        start_layer: first block of CLIP with one class token for every mask.
        fusion: pairs (blocks of CLIP, blocks of the side adapter) after which the features of the one are added to the
            other.
        supervised_blocks: blocks of the side adapter, counted from 1, after which masks are made in training; the last
            of them counts in evaluation.
        clip_scale: CLIP sees the padded image at so many times its size.
        resize_by_count: resize the side adapter's position embedding only where the number of patches is another, as
            the official code does, which leaves 20x80 patches the positions of 40x40; False: where their layout is.

    Raises:
        UserError: the tower has no class token or not these blocks, or numbers do not go together.
    """

    def __init__(
        self,
        clip: CLIPEncoder,
        *,
        num_queries: Positive = 100,
        width: Channels = 240,
        depth: PositiveLayers = 8,
        heads: Channels = 6,
        patch_size: Side = 16,
        image_size: Side = 640,
        embed_dim: Channels = 256,
        hidden_dim: Channels = 256,
        mlp_layers: PositiveLayers = 3,
        start_layer: NonNegative = 9,
        fusion: Places = ((0, 0), (3, 1), (6, 2), (9, 3)),
        supervised_blocks: Blocks = (7, 8),
        clip_scale: Scale = 0.5,
        resize_by_count: bool = False,
        class_weight: Weight = 2.0,
        mask_weight: Weight = 5.0,
        dice_weight: Weight = 5.0,
        void_weight: Weight = 0.1,
        num_points: NonNegative = 12544,
    ) -> None:
        super().__init__(
            None,
            class_weight=class_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
            void_weight=void_weight,
            mask_loss="bce",
            num_points=num_points,
        )
        tower = class_token_tower(clip, start_layer, _NODE)
        _check(width, heads, patch_size, image_size, self.size_divisibility)
        _check_blocks(fusion, supervised_blocks, start_layer, depth)
        self.start_layer, self.clip_scale = start_layer, clip_scale
        self.sources = {side: block for block, side in fusion}
        block: Any = tower.blocks[start_layer]
        self.side_adapter = SideAdapter(
            num_queries=num_queries,
            width=width,
            depth=depth,
            heads=heads,
            patch_size=patch_size,
            image_size=image_size,
            fused=dict.fromkeys(self.sources, tower.width),
            supervised=supervised_blocks,
            bias_heads=block.attn.num_heads,
            embed_dim=embed_dim,
            hidden_dim=hidden_dim,
            mlp_layers=mlp_layers,
            resize_by_count=resize_by_count,
        )

    @classmethod
    def from_options(cls, context: BuildContext, **options: Any) -> Any:
        return cls(context.clip, **options)

    def trainable_clip_parameters(self, clip: CLIPEncoder) -> Iterator[nn.Parameter]:
        """The position embedding of the image tower, where it has a learned one."""
        for name, parameter in clip.visual.named_parameters():
            if name.rpartition(".")[2] in ("positional_embedding", "pos_embed"):
                yield parameter

    def forward(
        self,
        images: Images,
        text: TextClassifier,
        clip: CLIPEncoder,
        targets: Any = None,
        records: Sequence[dict[str, Any]] | None = None,
    ) -> Proposals:
        """Mask logits (B, Q, H/16, W/16), their attention biases and class logits (B, Q, C + 1), void last.

        In training also those of the earlier supervised blocks.
        """
        tower = class_token_tower(clip, self.start_layer, _NODE)
        pixels = clip.normalize(images)
        tokens, grid, features = self.clip_features(tower, scaled_pixels(pixels, self.clip_scale, tower))
        layers = self.side_adapter(pixels, features, all_layers=self.training and torch.is_grad_enabled())
        # Rows do not see each other, so those of all layers go through CLIP in one pass.
        bias = torch.cat([bias_on_grid(bias, grid) for _, bias in layers], dim=2)
        embeddings = embeddings_of_rows(tower, tokens, grid, bias, self.start_layer)
        proposals = [
            Proposals(
                masks,
                images.padded_size,
                class_logits=self.class_logits(rows, text),
                attention_bias=bias,
                queries=rows,
            )
            for (masks, bias), rows in zip(layers, embeddings.chunk(len(layers), dim=1), strict=True)
        ]
        final = proposals.pop()
        final.auxiliary = proposals
        return final

    def class_logits(self, queries: Tensor, text: TextClassifier) -> Tensor:
        """(B, Q, C + 1) scaled cosines of class embeddings (B, Q, D) with the texts, void last."""
        return text.logits(queries)

    def clip_features(self, tower: ClassTokenTower, pixels: Tensor) -> tuple[Tensor, Grid, dict[int, Tensor]]:
        """CLIP before ``start_layer``, run once.

        Args:
            pixels: (B, 3, h, w) normalised.

        Returns:
            tokens (B, 1 + P, W) as block ``start_layer`` receives them, their grid, and the features (B, W, gh, gw)
            that the side adapter reads, by its blocks.
        """
        patches, grid = tower.patches(pixels)
        tokens, done, maps = tower.embed(patches, grid), 0, {}
        for block in sorted({*self.sources.values(), self.start_layer}):
            tokens, done = tower.run(tokens, grid, done, block), block
            maps[block] = tower.as_map(tokens[:, tower.prefix :], grid)
        return tokens, grid, {side: maps[block] for side, block in self.sources.items()}


def _check(width: int, heads: int, patch_size: int, image_size: int, divisor: int) -> None:
    if width % heads:
        raise UserError(f"{_NODE}.WIDTH is {width}: it must be a multiple of HEADS, {heads}.")
    if divisor % patch_size:
        raise UserError(
            f"{_NODE}.PATCH_SIZE is {patch_size}, but sides of padded images are multiples of {divisor}: choose a "
            f"divisor of {divisor}."
        )
    if image_size < patch_size:
        raise UserError(f"{_NODE}.IMAGE_SIZE is {image_size}, less than PATCH_SIZE, {patch_size}.")


def _check_blocks(fusion: Sequence[tuple[int, int]], supervised: Sequence[int], start_layer: int, depth: int) -> None:
    for block, side in fusion:
        if block > start_layer or side > depth:
            raise UserError(
                f"{_NODE}.FUSION has the pair [{block}, {side}]: the first number is at most START_LAYER, "
                f"{start_layer}, and the second at most DEPTH, {depth}."
            )
    if len({side for _, side in fusion}) < len(fusion):
        raise UserError(f"{_NODE}.FUSION adds features twice after one block of the side adapter: leave one pair out.")
    if list(supervised) != sorted(set(supervised)) or supervised[-1] > depth:
        raise UserError(
            f"{_NODE}.SUPERVISED_BLOCKS is {list(supervised)}: give rising numbers of blocks, at most DEPTH, {depth}."
        )
