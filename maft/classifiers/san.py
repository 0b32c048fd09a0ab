"""SAN's recognition (Side Adapter Network, Xu et al., CVPR 2023) for the masks of any proposer.

From block ``start_layer`` on CLIP is run with one copy of its class token for every mask. A copy sees itself and the
patches, to whose attention logits its bias is added, and neither the class token, which goes on beside the patches, nor
other copies.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from maft.clip import CLIPEncoder
from maft.clip.class_rows import bias_on_grid, class_token_tower, embeddings_of_rows, scaled_pixels
from maft.interfaces import BuildContext, MaskClassifier
from maft.layers.grid_masks import grid_probabilities
from maft.options import Fraction, NonNegative
from maft.registry import CLASSIFIERS
from maft.structures import Classification, EmbeddedMasks, Images, Proposals, TextClassifier

_NODE = "MODEL.CLASSIFIER.SAN"


@CLASSIFIERS.register()
class SAN(MaskClassifier):
    """One copy of the class token for every mask, under the attention bias that the proposer SAN gives it.

    Masks of another proposer have none: their copies see the patches that the mask shows and no other. What the
    proposer SAN says of classes itself is the same as this says of its masks, and costs no second pass through CLIP.

    Args:
        clip: the shared CLIP, whose image tower is run as it is.
        start_layer: first block with one class token for every mask.
        clip_scale: CLIP sees the padded image at so many times its size.
        mask_threshold: without a bias, a patch belongs to a mask that is at least this, resized to the token grid.

    Raises:
        UserError: the tower has no class token, or no such block.
    """

    def __init__(
        self,
        clip: CLIPEncoder,
        *,
        start_layer: NonNegative = 9,
        clip_scale: Annotated[float, Field(gt=0, le=1)] = 0.5,
        mask_threshold: Fraction = 0.5,
    ) -> None:
        super().__init__()
        class_token_tower(clip, start_layer, _NODE)
        self.start_layer, self.clip_scale, self.mask_threshold = start_layer, clip_scale, mask_threshold

    @classmethod
    def from_options(cls, context: BuildContext, **options: Any) -> Any:
        return cls(context.clip, **options)

    def embed(self, images: Images, proposals: Proposals, clip: CLIPEncoder) -> EmbeddedMasks:
        """Embeddings (B, Q, D) of the copies of the class token."""
        tower = class_token_tower(clip, self.start_layer, _NODE)
        pixels = scaled_pixels(clip.normalize(images), self.clip_scale, tower)
        tokens, grid = tower.tokens(pixels, self.start_layer)
        if proposals.attention_bias is None:
            bias = (grid_probabilities(proposals, grid) >= self.mask_threshold).flatten(2)
        else:
            bias = bias_on_grid(proposals.attention_bias, grid)
        return EmbeddedMasks(embeddings_of_rows(tower, tokens, grid, bias, self.start_layer))

    def compare(self, embedded: EmbeddedMasks, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Logits (B, Q, C), or (B, Q, C + 1) with void last."""
        logits = text.logits(embedded.embeddings)
        return Classification(logits, embedded.embeddings, has_void=text.void is not None)
