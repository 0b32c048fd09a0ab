"""The small dataclasses that travel between the parts of the model.

Shape letters: B images, Q proposals, C classes, T texts (synonyms of all classes), D width of CLIP's joint space,
(H, W) padded size of the batch, (h, w) any mask resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.vocabulary import Vocabulary as Vocabulary
from maft.vocabulary import as_clip_reads as as_clip_reads


def proposals_of_masks(masks: Sequence[Tensor], images: Images) -> Proposals:
    """Proposals with values 0 and 1; images with fewer masks than others get slots that are not valid.

    Args:
        masks: (n_i, h_i, w_i) bool for every image, at its size without padding; n_i may be 0.
        images: the batch.

    Returns:
        masks (B, Q, H, W) with Q the largest n_i, but at least 1: downstream code may take a maximum over proposals.
    """
    height, width = images.padded_size
    slots = max(1, *(len(one) for one in masks))
    padded = [
        F.pad(one, (0, width - one.shape[-1], 0, height - one.shape[-2], 0, slots - len(one))).float() for one in masks
    ]
    counts = torch.tensor([len(one) for one in masks], device=images.pixels.device)
    valid = torch.arange(slots, device=counts.device) < counts[:, None]
    return Proposals(torch.stack(padded), images.padded_size, are_logits=False, valid=valid)


@dataclass
class TextClassifier:
    """Text embeddings that name masks, made by the vocabulary encoder.

    Attributes:
        embeddings: (T, D), or (B, T, D) once a classifier adapted them to the images; one row per text.
        row_class: (T,) int64, the class of each row, ascending; a class has one or several rows (synonyms).
        num_classes: C.
        void: (1, D) learned no-object row, of unit length unless the vocabulary encoder leaves it as it is, or None.
        seen: (C,) bool, classes of the training vocabulary.
        logit_scale: temperature factor of the cosine (100 for CLIP).
        logit_bias: what a tower trained with a sigmoid (SigLIP) adds to all logits, the void column's among them. A
            softmax over the columns does not see it; the sigmoid of a logit under the tower's own factor is its
            probability. None adds nothing.
        vocabulary: the names as given, for a proposer with a text encoder of its own; None: the rows are of no texts.
    """

    embeddings: Tensor
    row_class: Tensor
    num_classes: int
    void: Tensor | None
    seen: Tensor
    logit_scale: float = 100.0
    logit_bias: Tensor | None = None
    vocabulary: Vocabulary | None = None

    @property
    def matrix(self) -> Tensor:
        """(T, D), or (T + 1, D) with the void row last; (B, ...) when adapted to images."""
        if self.void is None:
            return self.embeddings
        void = self.void.to(self.embeddings.dtype)
        return torch.cat([self.embeddings, void.expand(*self.embeddings.shape[:-2], 1, -1)], dim=-2)

    def logits(self, features: Tensor, scale: Tensor | float | None = None, *, void: bool = True) -> Tensor:
        """Scaled cosine of features with every class, the maximum over its synonyms, in float32 also under autocast.

        Bfloat16 has steps of half a unit at 100 times the cosine, too coarse for a softmax.

        Args:
            features: (..., D); (B, Q, D) when the embeddings are per image. Normalised here, the texts are not.
            scale: temperature factor, default ``logit_scale``.
            void: append the void column when there is a void row.

        Returns:
            (..., C) or (..., C + 1) with void last.
        """
        return self.class_maximum(self.row_logits(features, scale, void=void))

    def row_logits(self, features: Tensor, scale: Tensor | float | None = None, *, void: bool = True) -> Tensor:
        """`logits` of every text by itself: (..., T) or (..., T + 1)."""
        matrix = self.matrix if void else self.embeddings
        with torch.autocast(features.device.type, enabled=False):
            scores = F.normalize(features.float(), dim=-1) @ matrix.float().transpose(-1, -2)
            logits = scores * (self.logit_scale if scale is None else scale)
            return logits if self.logit_bias is None else logits + self.logit_bias

    def class_maximum(self, scores: Tensor, row_class: Tensor | None = None) -> Tensor:
        """(..., T [+ 1]) -> (..., C [+ 1]), the maximum over the synonyms of each class.

        Args:
            row_class: of other texts of the same classes; None: of these.
        """
        row_class = self.row_class if row_class is None else row_class
        texts = row_class.shape[0]
        if texts == self.num_classes:
            return scores
        index = row_class.expand(*scores.shape[:-1], texts)
        best = scores.new_full((*scores.shape[:-1], self.num_classes), float("-inf"))
        best = best.scatter_reduce(-1, index, scores[..., :texts], reduce="amax")
        return torch.cat([best, scores[..., texts:]], dim=-1)


@dataclass
class Images:
    """A batch of raw RGB images, zero-padded right and bottom to a common size.

    Attributes:
        pixels: (B, 3, H, W) float32 in 0..255, zero outside the images.
        sizes: (height, width) of each image without padding.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]

    @classmethod
    def from_list(cls, images: Sequence[Tensor], divisor: int = 32) -> Images:
        """Pads (3, h, w) images to the largest height and width of the batch, rounded up to ``divisor``."""
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True))
        padded = [F.pad(image.float(), (0, width - w, 0, height - h)) for image, (h, w) in zip(images, sizes)]
        return cls(torch.stack(padded), sizes)

    @property
    def padded_size(self) -> tuple[int, int]:
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])

    @property
    def filled(self) -> bool:
        """Whether no image of the batch has padding."""
        return all(size == self.padded_size for size in self.sizes)

    def normalized(self, mean: Tensor, std: Tensor) -> Tensor:
        """(pixels - mean) / std with the padding set to zero AFTER it; mean and std have 3 values, 0..255."""
        normal = (self.pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        return normal * self.inside()

    def inside(self) -> Tensor:
        """(B, 1, H, W) bool, True on image pixels and False on padding."""
        height, width = self.padded_size
        limits = torch.tensor(self.sizes, device=self.pixels.device)
        rows = torch.arange(height, device=self.pixels.device) < limits[:, :1]
        columns = torch.arange(width, device=self.pixels.device) < limits[:, 1:]
        return (rows[:, :, None] & columns[:, None, :])[:, None]


@dataclass
class Targets:
    """Ground truth of one image.

    Attributes:
        labels: (n,) int64 class indices of the training vocabulary.
        masks: (n, H, W) bool at the padded size of the batch.
    """

    labels: Tensor
    masks: Tensor


@dataclass(frozen=True, eq=False)
class Prompts:
    """A user's boxes and points, each of which shows an object of one image.

    Attributes:
        boxes: (n, 4) float32 x0, y0, x1, y1 in pixels.
        points: of each further object (k, 3) float32: x and y in pixels, and 1 on the object or 0 outside it.
    """

    boxes: Tensor
    points: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.boxes) + len(self.points)

    def resized(self, width: float, height: float) -> Prompts:
        """The same in an image whose sides are so many times as long."""
        scale = self.boxes.new_tensor([width, height, width, height])
        of_points = self.boxes.new_tensor([width, height, 1])
        return Prompts(self.boxes * scale, tuple(points * of_points for points in self.points))

    def to(self, device: torch.device) -> Prompts:
        return Prompts(self.boxes.to(device), tuple(points.to(device) for points in self.points))


@dataclass
class Proposals:
    """Masks of a batch, from any proposer, with what the proposer itself thinks of their classes.

    Attributes:
        masks: (B, Q, h, w) float: logits when ``are_logits``, otherwise values in [0, 1] (SAM, ground truth, disk).
        padded_size: (H, W) that the masks span; mask pixel (0, 0) lies at image pixel (0, 0).
        own_size: (h, w) of the masks of a single image without padding that the proposer resized for itself: they are
            read at this size, not at that of the image. None: at ``padded_size``.
        are_logits: whether ``masks`` needs a sigmoid.
        class_logits: (B, Q, C + 1) scores of the proposer with void last, or None.
        valid: (B, Q) bool, False for padding slots; None means all valid.
        labels: (B, Q) int64 class of each mask where it is known (ground truth), -1 elsewhere; None otherwise.
        pairs: (P, 2) int64, slots whose masks show the same object, alike in all images (Mask-Adapter's matched
            predictions and their targets); None when there are none.
        auxiliary: predictions of the earlier decoder layers, for deep supervision.
        clip_features: dense CLIP feature maps by name ("res2".."res5") when the backbone is the CLIP tower itself.
        align_corners: the resize rule this proposer's masks were trained with.
        attention_bias: (B, heads, Q, h, w), what CLIP's attention logits of each mask's class row towards the patches
            below are raised by (SAN), over the padded image as the masks are; or None.
        queries: (B, Q, W), what ``class_logits`` compare with the texts: other texts need no image, see
            `maft.interfaces.Proposer.class_logits`; None where there are none.
    """

    masks: Tensor
    padded_size: tuple[int, int]
    are_logits: bool = True
    own_size: tuple[int, int] | None = None
    class_logits: Tensor | None = None
    valid: Tensor | None = None
    labels: Tensor | None = None
    pairs: Tensor | None = None
    auxiliary: list[Proposals] = field(default_factory=list)
    clip_features: dict[str, Tensor] | None = None
    align_corners: bool = False
    attention_bias: Tensor | None = None
    queries: Tensor | None = None

    def resized(self, size: tuple[int, int]) -> Tensor:
        """Masks bilinearly resized to ``size``, still logits when ``are_logits``: (B, Q, *size)."""
        sides = (*self.masks.shape[-2:], *size)
        # A side that torch.export keeps open is no int, and not to be compared with.
        if all(isinstance(side, int) for side in sides) and sides[:2] == sides[2:]:
            return self.masks
        if self.masks.shape[1] == 0:
            return self.masks.new_zeros(len(self.masks), 0, *size)
        return F.interpolate(self.masks, size=size, mode="bilinear", align_corners=self.align_corners)

    def probabilities(self, size: tuple[int, int]) -> Tensor:
        """Mask values in [0, 1] at ``size``: (B, Q, *size)."""
        masks = self.resized(size)
        return masks.sigmoid() if self.are_logits else masks

    def image(self, index: int) -> Proposals:
        """The proposals of one image, as a batch of one, without auxiliary predictions."""
        one = slice(index, index + 1)
        return replace(
            self,
            masks=self.masks[one],
            class_logits=None if self.class_logits is None else self.class_logits[one],
            valid=None if self.valid is None else self.valid[one],
            labels=None if self.labels is None else self.labels[one],
            attention_bias=None if self.attention_bias is None else self.attention_bias[one],
            queries=None if self.queries is None else self.queries[one],
            auxiliary=[],
            clip_features=None,
        )

    def detached(self) -> Proposals:
        """The same proposals outside the autograd graph, without auxiliary predictions."""
        logits = None if self.class_logits is None else self.class_logits.detach()
        bias = None if self.attention_bias is None else self.attention_bias.detach()
        queries = None if self.queries is None else self.queries.detach()
        return replace(
            self,
            masks=self.masks.detach(),
            class_logits=logits,
            attention_bias=bias,
            queries=queries,
            auxiliary=[],
        )


@dataclass
class RowLogits:
    """Logits of single texts, for a rule that joins those of a class at the pixels (``MODEL.INFERENCE.SUM_LOGITS``).

    Attributes:
        logits: (B, Q, T), zero for a mask that says nothing.
        row_class: (T,) int64, see `TextClassifier`.
        elsewhere: of each image (T, h, w) logits of the pixels that no mask shows, spanning the image without its
            padding; None: zero.
    """

    logits: Tensor
    row_class: Tensor
    elsewhere: list[Tensor] | None = None

    def image(self, index: int) -> RowLogits:
        """Those of one image, as a batch of one."""
        one = slice(index, index + 1)
        return replace(self, logits=self.logits[one], elsewhere=self.elsewhere and self.elsewhere[one])


@dataclass
class EmbeddedMasks:
    """Masks as a classifier has looked at them: what it takes to name them with any texts, without their images.

    Attributes:
        embeddings: (B, Q, D) before normalisation.
        valid: (B, Q) bool, False where the mask was too empty to be classified; None means all valid.
        context: what else of each image its texts are compared with, by name: one tensor an image.
    """

    embeddings: Tensor
    valid: Tensor | None = None
    context: dict[str, list[Tensor]] = field(default_factory=dict)


@dataclass
class Classification:
    """What a mask classifier says of the proposals.

    Attributes:
        logits: (B, Q, C) or (B, Q, C + 1) with void last, as ``TextClassifier.logits`` gives them.
        embeddings: (B, Q, D) embeddings before normalisation, or None.
        valid: (B, Q) bool, False where the mask was too empty to be classified; None means all valid.
        has_void: whether the last column of ``logits`` is void.
        rows: ``logits`` before the texts of a class are joined, or None.
    """

    logits: Tensor
    embeddings: Tensor | None = None
    valid: Tensor | None = None
    has_void: bool = False
    rows: RowLogits | None = None

    @property
    def class_logits(self) -> Tensor:
        """(B, Q, C), without the void column."""
        return self.logits[..., :-1] if self.has_void else self.logits
