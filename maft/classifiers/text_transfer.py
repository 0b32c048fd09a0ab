"""MAFT+'s content-dependent transfer: the texts attend to the image they shall name (MAFT+, section 3.2)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from maft.errors import UserError
from maft.position import sine_position_encoding
from maft.structures import TextClassifier

FORMS = ("post_norm", "res_post_norm")


class ContentDependentTransfer(nn.Module):
    """One cross-attention from texts to the dense image features.

    Args:
        width: D.
        num_heads: attention heads.
        form: "post_norm" is LN(T + MLP(attention)), what the semantic releases were trained with; "res_post_norm" is
            T + LN(MLP(attention)) with the MLP starting at zero, as in the panoptic release. The official code
            chooses by ``TEST.PANOPTIC_ON``, so some published rows run weights in the other form.
    """

    def __init__(self, width: int, num_heads: int = 8, *, form: str = "post_norm") -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
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
        rows = text.matrix.expand(len(features), -1, -1)
        values = features.flatten(2).transpose(1, 2)
        size = (int(features.shape[-2]), int(features.shape[-1]))
        position = sine_position_encoding(size, features.shape[1], device=features.device)
        # Rows that are compared with 100 times a cosine want full precision.
        with torch.autocast(features.device.type, enabled=False):
            values = values.float()
            keys = values + position.flatten(1).T
            attended = self.mlp(self.attention(rows.float(), keys, values, need_weights=False)[0])
            rows = self.norm(rows + attended) if self.form == "post_norm" else rows + self.norm(attended)
        if text.void is None:
            return replace(text, embeddings=rows)
        return replace(text, embeddings=rows[:, :-1], void=rows[:, -1:])


def build_text_transfer(form: str, width: int, heads: int, option: str) -> ContentDependentTransfer | None:
    """The transfer of a form, None for "none".

    Raises:
        UserError: an unknown form, or heads that do not divide the width.
    """
    if form == "none":
        return None
    if form not in FORMS:
        raise UserError(f"{option} is {form!r}; choose one of: none, {', '.join(FORMS)}.")
    if heads < 1 or width % heads:
        raise UserError(f"{option}: {heads} attention heads do not divide the {width} channels of CLIP's joint space.")
    return ContentDependentTransfer(width, heads, form=form)
