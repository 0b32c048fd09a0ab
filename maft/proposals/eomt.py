"""EoMT as a proposer (Kerssies et al., CVPR 2025): queries in the last blocks of a plain ViT, CLIP's own or a DINO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.clip import CLIPEncoder
from maft.clip.towers.base import Grid
from maft.clip.towers.blocks import run_block
from maft.clip.towers.tokens import TokenTower
from maft.errors import UserError
from maft.interfaces import BuildContext
from maft.layers.transformer import MLP
from maft.options import Channels, NonNegative, Positive, PositiveLayers, Weight
from maft.proposals.criterion import SetPredictionProposer
from maft.proposals.dino import DINOTower, load_dino, run_dino_block
from maft.registry import PROPOSERS
from maft.structures import Images, Proposals, Targets, TextClassifier

# Masks are predicted at about this stride.
_MASK_STRIDE = 4
# Of the annealing's polynomial.
_POWER = 0.9


@PROPOSERS.register()
class EoMT(SetPredictionProposer):
    """Proposer: queries among the tokens of a plain ViT, in its last blocks: the shared CLIP's image tower, or a DINO.

    CLIP's tower runs once: its own last blocks, which stay as they are, give the dense features that masks are named
    by, and copies of them, which train, give masks. A DINO (v2, v2 with registers or v3) is the proposer's own: its
    last blocks train, and CLIP's tower runs for the names. A query is compared with the texts by an MLP and with the
    upscaled patches by another.

    In training, queries attend within the masks that they last predicted; block by block, from the first to the last,
    a growing share of them attends everywhere, until no mask is needed at test. How far that has come is kept with the
    weights: a training that starts from a trained EoMT goes on without masks.

    Args:
        tower: of CLIP, or a DINO.
        embedding_dim: D, width of CLIP's joint space.
        pretrained: of a DINO the folder or hub id, see `maft.proposals.dino.load_dino`; None: CLIP's tower.
        num_queries: how many there are, and so proposals of an image (Q).
        blocks: how many of the last blocks have queries.
        trained_blocks: how many of the last are trained, at least those; where all of a DINO's are, what precedes them
            is, too.
        embedding_hidden_dim: hidden width of the MLP that embeds queries.
        annealing_steps: iterations after which nothing is masked any more, with those of the whole training as EoMT
            has it: block i of n changes from (i + 1) / (n + 2) to (i + 2) / (n + 2) of them; 0: always masked.

    Raises:
        UserError: the tower has fewer blocks, or fewer are trained than have queries.
    """

    trained_steps: Tensor

    def __init__(
        self,
        tower: TokenTower | DINOTower,
        embedding_dim: int,
        *,
        num_queries: Positive = 100,
        blocks: PositiveLayers = 4,
        trained_blocks: PositiveLayers = 4,
        embedding_hidden_dim: Channels = 1024,
        annealing_steps: NonNegative = 0,
        class_weight: Weight = 2.0,
        mask_weight: Weight = 5.0,
        dice_weight: Weight = 5.0,
        void_weight: Weight = 0.1,
        mask_loss: Literal["focal", "bce"] = "bce",
        num_points: NonNegative = 12544,
    ) -> None:
        super().__init__(
            None,
            class_weight=class_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
            void_weight=void_weight,
            mask_loss=mask_loss,
            num_points=num_points,
        )
        if not blocks <= trained_blocks <= len(tower.blocks):
            raise UserError(
                f"MODEL.PROPOSER.EoMT.TRAINED_BLOCKS is {trained_blocks}: it must be at least BLOCKS, {blocks}, and at "
                f"most the {len(tower.blocks)} blocks of {tower.name}."
            )
        self.size_divisibility = math.lcm(*tower.patch_size)
        self.first, self.prefix = len(tower.blocks) - trained_blocks, tower.prefix
        self.query_blocks, self.annealing_steps = blocks, annealing_steps
        self.dino = tower if isinstance(tower, DINOTower) else None
        self.run_block = run_block if self.dino is None else run_dino_block
        self.blocks, norm = tower.cut(self.first) if isinstance(tower, DINOTower) else _copied(tower, self.first)
        self.queries = nn.Parameter(torch.randn(num_queries, tower.width))
        self.norm = norm
        self.upscale, self.mask_head = _heads(tower)
        self.class_head = MLP(tower.width, embedding_hidden_dim, embedding_dim, 2)
        self.register_buffer("trained_steps", torch.zeros((), dtype=torch.int64))

    @classmethod
    def from_options(cls, context: BuildContext, *, pretrained: str | None = None, **options: Any) -> Any:
        """Raises `UserError` when CLIP's image tower is needed and is no plain ViT, or a DINO cannot be read."""
        if pretrained is not None:
            return cls(load_dino(pretrained), context.clip.embed_dim, **options)
        tower = context.clip.tower
        if not isinstance(tower, TokenTower):
            raise UserError(
                f"MODEL.PROPOSER.NAME EoMT does not work with the image tower of {tower.name} ({tower.kind}): queries "
                "need a plain ViT, such as ViT-B-16, ViT-L-14 or a SigLIP, or a DINO's folder or hub id as "
                "MODEL.PROPOSER.EoMT.PRETRAINED."
            )
        return cls(tower, context.clip.embed_dim, **options)

    def forward(
        self,
        images: Images,
        text: TextClassifier,
        clip: CLIPEncoder,
        targets: list[Targets] | None = None,
        records: Sequence[dict[str, Any]] | None = None,
    ) -> Proposals:
        """Mask logits (B, Q, h, w) and class logits (B, Q, C + 1), void last; in training also of earlier blocks.

        The features of CLIP's tower are passed on as ``clip_features``; the mask losses do not reach it.
        """
        features: dict[str, Tensor] | None = None
        if self.dino is not None:
            tokens, grid, rotation = self.dino(images.normalized(self.pixel_mean, self.pixel_std))
        else:
            tower = clip.tower
            assert isinstance(tower, TokenTower)
            tokens, grid = tower.tokens(clip.normalize(images), self.first)
            features = tower.dense_features_of(tokens, grid, self.first)
            tokens, rotation = tokens.detach(), tower.sequence.rotation(grid)
        layers = [
            Proposals(masks, images.padded_size, class_logits=self.class_logits(embeddings, text), queries=embeddings)
            for masks, embeddings in self._decode(tokens, grid, rotation)
        ]
        final = layers.pop()
        final.auxiliary = layers
        final.clip_features = features
        return final

    def class_logits(self, queries: Tensor, text: TextClassifier) -> Tensor:
        """(B, Q, C + 1) scaled cosines of class embeddings (B, Q, D) with the texts, void last."""
        return text.logits(queries)

    def _decode(self, tokens: Tensor, grid: Grid, rotation: Any) -> list[tuple[Tensor, Tensor]]:
        """Predictions after the last block, in training also before every block that has queries."""
        supervised = self.training and torch.is_grad_enabled()
        shares = self.masked_shares()
        if supervised:
            self.trained_steps += 1
        without = len(self.blocks) - self.query_blocks
        found: list[tuple[Tensor, Tensor]] = []
        for index, block in enumerate(self.blocks):
            mask = None
            if index == without:
                tokens = torch.cat([self.queries.expand(len(tokens), -1, -1), tokens], dim=1)
            if index >= without and (supervised or shares[index - without] > 0):
                found.append(self._predict(tokens, grid))
                mask = self._attention_mask(found[-1][0], shares[index - without], grid)
            tokens = self.run_block(block, tokens, rotation, mask)
        last = self._predict(tokens, grid)
        return [*found, last] if supervised else [last]

    def masked_shares(self) -> list[float]:
        """Share of the queries that attend within their masks in each block; at test all do, or none."""
        if not self.annealing_steps:
            return [1.0] * self.query_blocks
        done = int(self.trained_steps) * (self.query_blocks + 2) / self.annealing_steps
        left = (1 - min(max(done - index - 1, 0.0), 1.0) for index in range(self.query_blocks))
        shares = [part**_POWER for part in left]
        return shares if self.training else [float(share >= 0.5) for share in shares]

    def _predict(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Mask logits (B, Q, h, w) and embeddings (B, Q, D) of tokens with queries in front."""
        count = len(self.queries)
        tokens = self.norm(tokens)
        queries, patches = tokens[:, :count], tokens[:, count + self.prefix :]
        pixels = self.upscale(patches.transpose(1, 2).unflatten(2, grid))
        return torch.einsum("bqc,bchw->bqhw", self.mask_head(queries), pixels), self.class_head(queries)

    def _attention_mask(self, logits: Tensor, share: float, grid: Grid) -> Tensor | None:
        """(B, 1, L, L) bool: a query sees all queries, what stands before the patches and the patches of its mask.

        Patches see everything, as do queries that ``share`` leaves out.
        """
        if share == 0:
            return None
        inside = F.interpolate(logits.detach(), grid, mode="bilinear", align_corners=False).flatten(2) > 0
        if share < 1:
            inside = inside | (torch.rand(inside.shape[:2], device=inside.device) > share)[..., None]
        batch, count, patches = inside.shape
        length = count + self.prefix + patches
        mask = inside.new_ones(batch, 1, length, length)
        mask[:, 0, :count, count + self.prefix :] = inside
        return mask


def _copied(tower: TokenTower, first: int) -> tuple[nn.ModuleList, nn.Module]:
    """Copies of CLIP's blocks from ``first`` on, to be trained, and a norm after them."""
    blocks = nn.ModuleList(deepcopy(block) for block in tower.blocks[first:]).requires_grad_(True)
    return blocks, nn.LayerNorm(tower.width)


def _heads(tower: TokenTower | DINOTower) -> tuple[nn.Module, nn.Module]:
    """EoMT's own upscaling of patches to about a quarter of the image, and its MLP of queries."""
    try:
        from transformers import EomtConfig
        from transformers.models.eomt.modeling_eomt import EomtMaskHead, EomtScaleBlock
    except ImportError as error:
        raise UserError(
            "The proposer EoMT needs the transformers package, 4.56 or newer: pip install 'maft[sam]'."
        ) from error
    doublings = max(0, round(math.log2(tower.patch_size[0] / _MASK_STRIDE)))
    config = EomtConfig(hidden_size=tower.width, num_upscale_blocks=doublings)
    return EomtScaleBlock(config), EomtMaskHead(config)
