"""Any universal segmenter of the transformers library as a proposer: good masks on photographs, frozen or trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.clip import CLIPEncoder
from maft.errors import UserError
from maft.interfaces import BuildContext
from maft.layers.transformer import MLP
from maft.options import NonNegative, Weight
from maft.proposals.criterion import SetPredictionProposer
from maft.proposals.universal_images import OUTSIDE, Prepared, scale_that_fits, scaled
from maft.proposals.universal_models import UniversalModel, load_universal
from maft.proposals.universal_scores import (
    class_agnostic,
    mean_logits_of_names,
    objectness,
    scores_of_names,
)
from maft.registry import PROPOSERS
from maft.structures import Images, Proposals, Targets, TextClassifier

_TEXT_HEAD_WIDTH = 1024


@PROPOSERS.register()
class Universal(SetPredictionProposer):
    """Proposer: MaskFormer, Mask2Former, OneFormer, EoMT (on DINOv2 or DINOv3) or VideoMT of the transformers library.

    Images are resized and normalised as the model's own processor does it, in training too, and its masks are those
    that its own post-processing starts from. VideoMT sees each image as a film of one frame. An EoMT whose processor
    cuts images answers once for each piece; where that makes very many masks, they are coarser.

    Args:
        model: the model with its image processor.
        embedding_dim: D, width of CLIP's joint space.
        pretrained: a folder or a hub id, see `maft.proposals.universal_models.load_universal`.
        task: what OneFormer is asked for.
        class_scores: objectness (how sure it is that there is an object, in equal parts for all classes: trained on
            masks alone), labels (its own labels where they name a class, see
            `maft.proposals.universal_scores.scores_of_names`), mean_logits (MaskCLIP++'s rule for them,
            `maft.proposals.universal_scores.mean_logits_of_names`) or texts (a new head, to be trained, compares its
            queries with the texts).
        class_weight, mask_weight, dice_weight, void_weight, mask_loss, num_points: of the training, as for Mask2Former.
    """

    def __init__(
        self,
        model: UniversalModel,
        embedding_dim: int,
        *,
        class_scores: Literal["objectness", "labels", "mean_logits", "texts"] = "objectness",
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
        self.model, self.class_scores = model, class_scores
        if class_scores == "texts":
            model.replace_class_head(lambda width: MLP(width, _TEXT_HEAD_WIDTH, embedding_dim, 2))
        self.brings_weights = class_scores != "texts"

    @classmethod
    def from_options(
        cls,
        context: BuildContext,
        *,
        pretrained: str = "facebook/mask2former-swin-large-coco-panoptic",
        task: Literal["panoptic", "semantic", "instance"] = "panoptic",
        **options: Any,
    ) -> Any:
        return cls(load_universal(pretrained, task), context.clip.embed_dim, **options)

    def forward(
        self,
        images: Images,
        text: TextClassifier,
        clip: CLIPEncoder,
        targets: list[Targets] | None = None,
        records: Sequence[dict[str, Any]] | None = None,
    ) -> Proposals:
        """Mask logits (B, Q, h, w) and class logits (B, Q, C + 1), void last; in training also of earlier layers.

        Where every image fills the batch the masks have the size that the model gives them, otherwise that of the
        batch (or less, `maft.proposals.universal_images.MOST_VALUES`). Images cut into fewer pieces than others get
        slots that are not ``valid``.
        """
        prepared = [
            self.model.preparation(pixels[:, :height, :width])
            for pixels, (height, width) in zip(images.pixels, images.sizes, strict=True)
        ]
        layers = [self._proposals(images, text, prepared, layer) for layer in self._predictions(prepared)]
        final = layers.pop()
        final.auxiliary = layers
        return final

    def _predictions(self, prepared: Sequence[Prepared]) -> list[list[tuple[Tensor, Tensor]]]:
        """Masks (n, Q, h, w) and scores (n, Q, K + 1) of the n views of each image, layer by layer.

        Images of one size run together; padding some to the size of others would change them.
        """
        groups: dict[torch.Size, list[int]] = {}
        for index, one in enumerate(prepared):
            groups.setdefault(one.pixels.shape[-2:], []).append(index)
        found: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for indices in groups.values():
            counts = [len(prepared[index].pixels) for index in indices]
            layers = self.model(torch.cat([prepared[index].pixels for index in indices]))
            parts = [zip(layer.masks.split(counts), layer.scores.split(counts), strict=True) for layer in layers]
            found.update(zip(indices, map(list, zip(*parts, strict=True)), strict=True))
        return [list(layer) for layer in zip(*(found[index] for index in range(len(prepared))), strict=True)]

    def _proposals(
        self,
        images: Images,
        text: TextClassifier,
        prepared: Sequence[Prepared],
        layer: Sequence[tuple[Tensor, Tensor]],
    ) -> Proposals:
        # Scaling them up would cost the training memory and teach it nothing.
        kept = self.training and all(one.is_whole for one in prepared)
        masks = [logits[0] if kept else one.masks(logits) for one, (logits, _) in zip(prepared, layer, strict=True)]
        filled = all(size == images.padded_size for size in images.sizes)
        if not (filled and len({one.shape[-2:] for one in masks}) == 1):
            scale = scale_that_fits(max(map(len, masks)), images.padded_size)
            padded_size = scaled(images.padded_size, scale)
            masks = [
                _placed(one, scaled(size, scale), padded_size) for one, size in zip(masks, images.sizes, strict=True)
            ]
        counts = [len(one) for one in masks]
        slots = max(counts)
        scores = [
            F.pad(scores.flatten(0, 1), (0, 0, 0, slots - count))
            for (_, scores), count in zip(layer, counts, strict=True)
        ]
        valid = torch.arange(slots)[None] < torch.tensor(counts)[:, None]
        padded = [F.pad(one, (0, 0, 0, 0, 0, slots - len(one)), value=OUTSIDE) for one in masks]
        queries = torch.stack(scores)
        return Proposals(
            torch.stack(padded),
            images.padded_size,
            class_logits=self.class_logits(queries, text),
            valid=None if min(counts) == slots else valid.to(images.pixels.device),
            queries=queries,
        )

    def class_logits(self, queries: Tensor, text: TextClassifier) -> Tensor:
        """(B, Q, C + 1), void last, of the model's scores of its own labels, or of embeddings, as ``class_scores`` say.

        Raises:
            UserError: its labels are compared with names, and the texts have none.
        """
        if self.class_scores == "texts":
            return text.logits(queries)
        if self.class_scores == "objectness":
            return objectness(queries, text.num_classes)
        if text.vocabulary is None:
            raise UserError(
                "The labels of the proposer Universal are compared with names, and this vocabulary has none: set "
                "MODEL.PROPOSER.Universal.CLASS_SCORES to objectness."
            )
        rule = scores_of_names if self.class_scores == "labels" else mean_logits_of_names
        return rule(queries, self.model.labels, text.vocabulary)

    def losses(self, proposals: Proposals, text: TextClassifier, targets: list[Targets]) -> dict[str, Tensor]:
        """Weighted set losses of the final prediction and of every earlier one; of objectness, labels do not count.

        Raises:
            UserError: ``class_scores`` are texts, and the vocabulary has no void row.
        """
        if self.class_scores == "texts":
            return super().losses(proposals, text, targets)
        if self.class_scores == "objectness":
            proposals, targets = class_agnostic(proposals, targets)
        return self.criterion(proposals, targets)


def _placed(masks: Tensor, size: tuple[int, int], padded_size: tuple[int, int]) -> Tensor:
    """Mask logits (Q, h, w) that span an image -> (Q, *padded_size), at the image's size and `OUTSIDE` beyond it."""
    masks = F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]
    return F.pad(masks, (0, padded_size[1] - size[1], 0, padded_size[0] - size[0]), value=OUTSIDE)
