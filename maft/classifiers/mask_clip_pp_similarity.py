"""What MaskCLIP++ learns on the similarities between masks and prompts, shared by all classes.

Shape letters: B images, Q masks, T texts, P prompts of each text, D width of CLIP's joint space, (h, w) a feature map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.errors import UserError


class Similarity(nn.Module):
    """From embeddings of masks and prompts to one score for every text: the mean over its prompts of the cosine.

    This is CLIP as it was trained; the subclasses learn another rule.

    Attributes:
        scaled: whether scores are cosines times the temperature of the tower.
        reads_map: whether the dense embeddings of the image are read.
    """

    scaled = True
    reads_map = False

    def forward(self, embeddings: Tensor, prompts: Tensor, temperature: Tensor | float, dense: Tensor | None) -> Tensor:
        """Scores (B, Q, T).

        Args:
            embeddings: (B, Q, D) of masks, of any length.
            prompts: (T, P, D) of unit length.
            temperature: factor of the cosines.
            dense: (B, D, h, w) embeddings of all positions, of any length, where ``reads_map``.
        """
        return self.of_cosines(cosines(embeddings, prompts) * temperature)

    def of_cosines(self, values: Tensor) -> Tensor:
        """(..., T, P) scaled cosines to (..., T) scores."""
        return values.mean(-1)


def cosines(embeddings: Tensor, prompts: Tensor) -> Tensor:
    """(..., D) of any length and (T, P, D) of unit length -> (..., T, P)."""
    flat = F.normalize(embeddings.float(), dim=-1) @ prompts.float().flatten(0, 1).T
    return flat.unflatten(-1, prompts.shape[:2])


class LinearSimilarity(Similarity):
    """Two linear layers over the prompts of a text, with nothing between: an affine map of its P similarities.

    Args:
        prompts: P.
        width: channels between the layers.
    """

    def __init__(self, prompts: int, width: int) -> None:
        super().__init__()
        self.expand, self.reduce = nn.Linear(prompts, width), nn.Linear(width, 1)

    def of_cosines(self, values: Tensor) -> Tensor:
        # The layers are joined first: no (..., T, width) tensor is ever held.
        weight = self.reduce.weight @ self.expand.weight
        bias = self.reduce.weight @ self.expand.bias + self.reduce.bias
        return F.linear(values, weight, bias).squeeze(-1)

    def of_cosines_by_definition(self, values: Tensor) -> Tensor:
        """`of_cosines`, one layer after the other."""
        return self.reduce(self.expand(values)).squeeze(-1)


class PseudoTextSimilarity(Similarity):
    """Texts that look at the image before masks are compared with them.

    With u the unit-length mean of a text's prompts and F the dense embeddings of the image, of unit length,

        u' = LN(u + MultiHeadAttention(queries u, keys and values W F)),    score of a mask v = v / |v| . u'

    where u' keeps its length, which takes the place of a temperature.

    Args:
        width: D.
        heads: attention heads.
        dropout: of the attention weights, in training.

    Raises:
        UserError: the heads do not divide the width.
    """

    scaled = False
    reads_map = True

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise UserError(
                f"MODEL.CLASSIFIER.MaskCLIPpp.SIMILARITY_HEADS is {heads}, but {heads} attention heads do not divide "
                f"the {width} channels of CLIP's joint space."
            )
        self.project = nn.Linear(width, width, bias=False)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, embeddings: Tensor, prompts: Tensor, temperature: Tensor | float, dense: Tensor | None) -> Tensor:
        assert dense is not None
        texts = F.normalize(prompts.float().mean(1), dim=-1).expand(len(dense), -1, -1)
        values = self.project(F.normalize(dense.float(), dim=1).flatten(2).transpose(1, 2))
        attended, _ = self.attention(texts, values, values, need_weights=False)
        texts = self.norm(texts + attended)
        return torch.einsum("bqd,btd->bqt", F.normalize(embeddings.float(), dim=-1), texts)
