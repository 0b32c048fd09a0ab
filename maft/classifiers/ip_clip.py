"""IP-CLIP, MAFT's mask classifier (Jiao et al., NeurIPS 2023): one pass of CLIP's ViT names every proposal.

From block L on the class token is replicated for every proposal, and an attention mask lets copy n see itself and the
patches that proposal n shows, while patches see all patches and no copy:

    softmax(Q K^T / sqrt(d) + M) V,   M = [ M_copies  M_shown ]      M_copies: 0 on the diagonal, -inf elsewhere
                                          [ -inf      0       ]      M_shown:  0 where the patch is shown, else -inf

with Q, K and V the queries, keys and values of the copies followed by the patches, and d the width of a head. Towers
without a class token mask what takes its place, their pool: `maft.clip.towers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.clip import CLIPEncoder
from maft.clip.towers import ImageTower, image_tower
from maft.errors import UserError
from maft.interfaces import BuildContext, MaskClassifier
from maft.layers.grid_masks import grid_probabilities
from maft.options import Fraction, NonNegative, Side
from maft.registry import CLASSIFIERS
from maft.structures import Classification, EmbeddedMasks, Images, Proposals, TextClassifier

_CLASS_TOKEN_START = 8
_START_LAYER = "MODEL.CLASSIFIER.IPCLIP.START_LAYER"


@CLASSIFIERS.register()
class IPCLIP(MaskClassifier):
    """Image-proposal CLIP: from block ``start_layer`` on, one class token per proposal sees only its patches.

    Where a learned query makes the embedding (SigLIP, PE-Core, CoCa), one query per proposal attends to its patches;
    where the mean of the tokens does (CLIPA, ViTamin), a proposal has the mean of its patches.

    Args:
        clip: the shared CLIP, whose image tower is copied; with ``train`` none it is run itself.
        start_layer: L, the first block with one class token per proposal; None: 8, or the pool of a tower without a
            class token, whose only choice it is.
        input_size: side of the square that images are squashed to (bilinear, aspect ratio lost); None keeps their
            padded size.
        position_align_corners: how a learned position embedding is resized to the token grid; True as released.
        mask_threshold: a patch belongs to a proposal when the mask, resized to the token grid, is at least this.
        train: attention_and_norms (the paper's choice: attention projections and LayerNorms of the blocks, and the
            last LayerNorm; also of a learned query's pool), all, or none.
        mask_crop: resize only the un-padded part of the masks to the grid although the image includes its padding,
            as FreeSeg's released inference does.
        drop_empty: mark proposals without a pixel above 0.5 as not valid, as FreeSeg's released inference does.
        activation_checkpointing: recompute the blocks in the backward pass to save memory.

    Raises:
        UserError: the tower does not work on tokens, or has no such start layer.
    """

    starts_from_clip = True

    def __init__(
        self,
        clip: CLIPEncoder,
        *,
        start_layer: NonNegative | None = None,
        input_size: Side | None = 480,
        position_align_corners: bool = True,
        mask_threshold: Fraction = 0.5,
        train: Literal["attention_and_norms", "all", "none"] = "attention_and_norms",
        mask_crop: bool = False,
        drop_empty: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        clip.tower.require("proposal masks", "MODEL.CLASSIFIER.NAME IPCLIP")
        layers = clip.tower.masked_blocks
        if start_layer is None:
            start_layer = _CLASS_TOKEN_START if layers else 0
        elif not layers:
            raise UserError(
                f"{_START_LAYER} is {start_layer}, but masks act in the pool of the image tower of {clip.name} "
                f"({clip.tower.kind}): leave it out, or set it to null where a base config sets it."
            )
        if layers and start_layer >= layers:
            raise UserError(
                f"{_START_LAYER} is {start_layer}, but the image tower of {clip.name} has blocks 0 to {layers - 1}."
            )
        if input_size is not None and input_size < clip.tower.stride:
            raise UserError(
                f"MODEL.CLASSIFIER.IPCLIP.INPUT_SIZE is {input_size}, less than one patch of {clip.name}, "
                f"{clip.tower.stride}."
            )
        self.visual: nn.Module | None = None
        self.tower: ImageTower | None = None
        if train != "none":
            self.visual = deepcopy(clip.visual)
            self.tower = image_tower(self.visual, clip.name)
        self.start_layer, self.input_size, self.position_align_corners = start_layer, input_size, position_align_corners
        self.mask_threshold, self.mask_crop, self.drop_empty = mask_threshold, mask_crop, drop_empty
        self.rule, self.activation_checkpointing = train, activation_checkpointing

    @classmethod
    def from_options(cls, context: BuildContext, **options: Any) -> Any:
        return cls(context.clip, **options)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """What the training rule fine-tunes."""
        if self.tower is None:
            return
        tuned = set(self.tower.attention_and_norms()) if self.rule == "attention_and_norms" else None
        yield from (parameter for parameter in self.parameters() if tuned is None or parameter in tuned)

    def embed(self, images: Images, proposals: Proposals, clip: CLIPEncoder) -> EmbeddedMasks:
        """Embeddings (B, Q, D) from one pass of the tower over all masks."""
        tower, pixels, visible = self._shown(images, proposals, clip)
        return EmbeddedMasks(self.encode_proposals(tower, pixels, visible), self._valid(images, proposals))

    def forward_with_images(
        self, images: Images, proposals: Proposals, text: TextClassifier, clip: CLIPEncoder
    ) -> tuple[Classification, Tensor]:
        """`forward` and `encode_image`, which have the blocks before ``start_layer`` in common."""
        embedded, whole = self.embed_with_images(images, proposals, clip)
        return self.compare(embedded, text, clip), whole

    def embed_with_images(
        self, images: Images, proposals: Proposals, clip: CLIPEncoder
    ) -> tuple[EmbeddedMasks, Tensor]:
        """`embed` and `encode_image` of one pass."""
        tower, pixels, visible = self._shown(images, proposals, clip)
        rows, whole = tower.encode_masked_and_whole(
            pixels,
            visible,
            self.start_layer,
            align_corners=self.position_align_corners,
            checkpointing=self.activation_checkpointing,
        )
        return EmbeddedMasks(rows, self._valid(images, proposals)), whole

    def _shown(self, images: Images, proposals: Proposals, clip: CLIPEncoder) -> tuple[ImageTower, Tensor, Tensor]:
        """The tower, its pixels and which patches each proposal shows."""
        pixels = self.prepare(images, clip)
        tower: Any = clip.tower if self.tower is None else self.tower
        return tower, pixels, self.visible_patches(images, proposals, tower.grid(*pixels.shape[-2:]))

    def _valid(self, images: Images, proposals: Proposals) -> Tensor | None:
        if not self.drop_empty:
            return None
        return ((proposals.probabilities(images.padded_size) > 0.5) & images.inside()).flatten(2).any(-1)

    def compare(self, embedded: EmbeddedMasks, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Logits (B, Q, C), or (B, Q, C + 1) with void last."""
        logits = text.logits(embedded.embeddings)
        return Classification(logits, embedded.embeddings, embedded.valid, has_void=text.void is not None)

    def prepare(self, images: Images, clip: CLIPEncoder) -> Tensor:
        """Pixels as the tower takes them: CLIP's normalisation, padding zeroed after it, then squashed to a square."""
        pixels = clip.normalize(images)
        if self.input_size is None:
            return pixels
        return F.interpolate(pixels, size=(self.input_size, self.input_size), mode="bilinear", align_corners=False)

    def visible_patches(self, images: Images, proposals: Proposals, grid: tuple[int, int]) -> Tensor:
        """(B, Q, P) bool: which patches of the token grid, row-major, each proposal shows."""
        if self.mask_crop and not images.filled:
            values = torch.cat(
                [grid_probabilities(proposals.image(index), grid, size) for index, size in enumerate(images.sizes)]
            )
        else:
            values = grid_probabilities(proposals, grid)
        return (values >= self.mask_threshold).flatten(2)

    def encode_proposals(self, tower: ImageTower, pixels: Tensor, visible: Tensor) -> Tensor:
        """The tower with one class token, query or mean per proposal.

        Args:
            tower: CLIP's image tower or a tuned copy.
            pixels: (B, 3, h, w) normalised.
            visible: (B, Q, P) bool; a proposal without a patch keeps what its class token knew at block L - 1, and
                sees the whole image where there is none.

        Returns:
            (B, Q, D) embeddings, not normalised.
        """
        return tower.encode_masked(
            pixels,
            visible,
            self.start_layer,
            align_corners=self.position_align_corners,
            checkpointing=self.activation_checkpointing,
        )

    def encode_image(self, images: Images, clip: CLIPEncoder, *, teacher: bool = False) -> Tensor:
        """The tower on whole images, without masks, as self-distillation compares it: (B, D), not normalised."""
        tower = clip.tower if teacher or self.tower is None else self.tower
        return tower.encode(self.prepare(images, clip), align_corners=self.position_align_corners)
