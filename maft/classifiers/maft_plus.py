"""MAFT+ (Jiao et al., ECCV 2024): mask pooling with a tuned CLIP trunk and texts that adapt to the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from maft.classifiers.mask_pooling import MaskPooling
from maft.clip import CLIPEncoder
from maft.clip.towers import image_tower
from maft.errors import UserError
from maft.interfaces import BuildContext
from maft.layers.transformer import Attention, position_codes
from maft.options import Channels
from maft.registry import CLASSIFIERS
from maft.structures import Images, TextClassifier

Form = Literal["post_norm", "res_post_norm"]


class ContentDependentTransfer(nn.Module):
    """One cross-attention from texts to the dense image features (MAFT+, content-dependent transfer).

    With T the text rows of CLIP, F the dense features of the image, one row a position, and P their sine position codes

        A = MultiHeadAttention(queries T, keys F + P, values F),    T' = LN(T + MLP(A))

    Args:
        width: D.
        num_heads: attention heads.
        form: "post_norm" is the above, what the semantic releases were trained with; "res_post_norm" is
            T' = T + LN(MLP(A)) with the MLP, one linear layer, starting at zero, as in the panoptic release. The
            official code chooses by ``TEST.PANOPTIC_ON``, so some published rows run weights in the other form.

    Raises:
        UserError: the heads do not divide the width.
    """

    def __init__(self, width: int, num_heads: int = 8, *, form: Form = "post_norm") -> None:
        super().__init__()
        if width % num_heads:
            raise UserError(
                f"TRANSFER_HEADS is {num_heads}, but {num_heads} attention heads do not divide the {width} channels of "
                "CLIP's joint space."
            )
        self.attention = Attention(width, num_heads)
        self.mlp = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.form = form
        if form == "res_post_norm":
            nn.init.zeros_(self.mlp.weight)
            nn.init.zeros_(self.mlp.bias)

    def forward(self, text: TextClassifier, features: Tensor) -> TextClassifier:
        """Texts per image.

        Args:
            text: rows (T, D), with or without void.
            features: (B, D, h, w) dense features in CLIP's joint space.

        Returns:
            the classifier with embeddings (B, T, D) and void (B, 1, D), not normalised: their length counts.
        """
        rows = text.matrix.expand(features.shape[0], -1, -1)
        values = features.flatten(2).transpose(1, 2)
        # Rows that are compared with 100 times a cosine want full precision.
        with torch.autocast(features.device.type, enabled=False):
            values = values.float()
            keys = values + position_codes(features)
            attended = self.mlp(self.attention(rows.float(), keys, values))
            rows = self.norm(rows + attended) if self.form == "post_norm" else rows + self.norm(attended)
        if text.void is None:
            return replace(text, embeddings=rows)
        return replace(text, embeddings=rows[:, :-1], void=rows[:, -1:])


@CLASSIFIERS.register()
class MAFTPlus(MaskPooling):
    """Mask pooling whose vision and text sides are tuned together.

    Args:
        embed_dim: D, width of CLIP's joint space.
        load_teacher: gives the image tower as pre-trained, for representation compensation; called when the first
            training step asks for it. The teacher is not part of checkpoints.
        text_transfer: form of the transfer, see `ContentDependentTransfer`.
        transfer_heads: attention heads of the transfer.
        rows_in_memory_order: the official reshape of the dense features that the transfer reads, with which the
            released weights were trained; see `ImageTower.project_dense`.
    """

    def __init__(
        self,
        embed_dim: int,
        load_teacher: Callable[[], nn.Module],
        *,
        text_transfer: Form = "post_norm",
        transfer_heads: Channels = 8,
        rows_in_memory_order: bool = False,
    ) -> None:
        super().__init__()
        self.text_transfer = ContentDependentTransfer(embed_dim, transfer_heads, form=text_transfer)
        self.rows_in_memory_order = rows_in_memory_order
        self._load_teacher = load_teacher

    @classmethod
    def from_options(cls, context: BuildContext, **options: Any) -> Any:
        """The teacher is a copy of ``context.clip``'s tower, or where that is a checkpoint's, the original CLIP's.

        Raises:
            UserError: the tower has no dense features.
        """
        context.clip.tower.require("dense features", "MODEL.CLASSIFIER.NAME MAFTPlus")
        if load := context.pretrained_clip:
            return cls(context.clip.embed_dim, lambda: load().visual, **options)
        # Copied now, before training changes it.
        tower = deepcopy(context.clip.visual)
        return cls(context.clip.embed_dim, lambda: tower, **options)

    @cached_property
    def teacher(self) -> nn.Module:
        """The image tower as pre-trained, frozen and in eval mode.

        It is no submodule: evaluation does without it, and checkpoints hold one tower.
        """
        return self._load_teacher().eval().requires_grad_(False)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """The text transfer."""
        return self.text_transfer.parameters()

    def trainable_clip_parameters(self, clip: CLIPEncoder) -> Iterator[nn.Parameter]:
        """The trunk of the image tower; its head, which projects into the joint space, stays."""
        head = clip.tower.head_names
        return (parameter for name, parameter in clip.visual.named_parameters() if not name.startswith(head))

    def context(self, dense: Tensor, clip: CLIPEncoder) -> dict[str, list[Tensor]]:
        """Dense features in the joint space, (D, h, w) of each image."""
        return {"dense": list(clip.tower.project_dense(dense, rows_in_memory_order=self.rows_in_memory_order))}

    def texts(self, text: TextClassifier, context: Mapping[str, list[Tensor]]) -> TextClassifier:
        """Texts adapted to each image."""
        return self.text_transfer(text, torch.stack(context["dense"]))

    @torch.no_grad()
    def teacher_features(self, images: Images, clip: CLIPEncoder) -> Tensor:
        """The pre-trained tower's dense features (B, C, h, w)."""
        teacher = image_tower(self.teacher.to(images.pixels.device), clip.name)
        return teacher.dense_features(clip.normalize(images))["dense"]
