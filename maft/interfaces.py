"""What a proposer, a mask classifier, a loss and an ensemble are: the one file to read before writing one.

A component is a class with one of these bases, registered in `maft.registry` and chosen by its name in a config. Its
options are the keyword-only parameters of its constructor (`maft.options`). What a base class does by default is
written at its method; nothing else is ever asked of a component.

Shape letters: B images, Q proposals, C classes, D width of CLIP's joint space, (H, W) padded size of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maft.errors import UserError
from maft.structures import (
    Classification,
    EmbeddedMasks,
    Images,
    Proposals,
    Targets,
    TextClassifier,
    Vocabulary,
)

if TYPE_CHECKING:
    from maft.clip import CLIPEncoder, VocabularyEncoder


@dataclass(frozen=True)
class BuildContext:
    """What a component may need from the model under construction, besides its own options.

    Attributes:
        clip: the shared CLIP.
        num_classes: number of classes of the training vocabulary, 0 without one.
        backbone: builds the Detectron2 backbone that ``MODEL.BACKBONE`` names; called only by components that use one.
        pretrained_clip: loads CLIP as ``MODEL.CLIP`` names it, where ``clip`` comes from a checkpoint that may have
            tuned it; None where ``clip`` is that CLIP.
    """

    clip: CLIPEncoder
    num_classes: int
    backbone: Callable[[], nn.Module]
    pretrained_clip: Callable[[], CLIPEncoder] | None = None


class Component:
    """Anything that a config chooses by name."""

    @classmethod
    def from_options(cls, context: BuildContext, **options: Any) -> Any:
        """Builds it of checked options; override this only to give the constructor something of the context."""
        return cls(**options)


class Proposer(Component, nn.Module):
    """Answers where something could be: images -> `Proposals`.

    Attributes:
        size_divisibility: images are padded to a multiple of it.
        needs_targets: asks for the annotated masks at test as well.
        sees_pixels: its masks come from the pixels that it is given, so that a resized, flipped or cut copy of an image
            has masks of its own; False where they are those of the whole image, from elsewhere.
        brings_weights: its constructor has filled every parameter with trained weights, so that no checkpoint needs to
            hold them.
        takes_prompts: of an image whose record holds "prompts" (`maft.structures.Prompts`, in pixels of the image as it
            is given) it proposes one mask for each, in their order.
        reads_words: what it proposes depends on the vocabulary, so that other words have other masks.
    """

    size_divisibility: int = 32
    needs_targets: bool = False
    sees_pixels: bool = True
    brings_weights: bool = False
    takes_prompts: bool = False
    reads_words: bool = False

    def forward(
        self,
        images: Images,
        text: TextClassifier,
        clip: CLIPEncoder,
        targets: list[Targets] | None = None,
        records: Sequence[dict[str, Any]] | None = None,
    ) -> Proposals:
        """Proposes masks.

        Args:
            images: the batch, raw RGB in 0..255.
            text: embeddings of the vocabulary in use, for proposers that read or score classes.
            clip: the shared CLIP, for proposers that use its features.
            targets: annotated masks (n, H, W) and labels of every image; in training, and with ``needs_targets``.
            records: the Detectron2 dicts of the batch, with ``file_name`` and ``image_id`` where a dataset gave them.

        Returns:
            masks (B, Q, h, w) and what else `Proposals` documents; Q is at least 1, free slots are not ``valid``.
        """
        raise NotImplementedError

    def class_logits(self, queries: Tensor, text: TextClassifier) -> Tensor:
        """What it thinks of the classes of its proposals, which `forward` returns as ``class_logits``.

        Args:
            queries: (B, Q, W), see `Proposals.queries`.

        Returns:
            (B, Q, C + 1), void last, or (B, Q, C) without a void row.

        Raises:
            UserError: it makes them in one step with the masks.
        """
        raise UserError(
            f"{type(self).__name__} makes class scores in one step with its masks, which other words cannot be "
            "compared with: write them as Proposer.class_logits of Proposals.queries."
        )

    def check_records(self, records: Sequence[dict[str, Any]]) -> None:
        """Raises `UserError` for images that it could not serve, before it is given the first one; by default none.

        Args:
            records: the Detectron2 dicts of all images of a dataset, without pixels.
        """

    def losses(self, proposals: Proposals, text: TextClassifier, targets: list[Targets]) -> dict[str, Tensor]:
        """Weighted scalar losses of ``proposals`` by name, in training unless frozen; by default none."""
        return {}

    def trainable_parameters(self) -> Iterable[nn.Parameter]:
        """What trains unless ``MODEL.PROPOSER.FROZEN``: by default all that require a gradient after construction."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def trainable_clip_parameters(self, clip: CLIPEncoder) -> Iterable[nn.Parameter]:
        """What it trains of the shared CLIP, which is frozen otherwise; by default nothing."""
        return ()


class MaskClassifier(Component, nn.Module):
    """Answers what is under a mask: images and `Proposals` -> `Classification`.

    In two steps, `embed`, which looks at the images, and `compare`, which does not, so that masks that were looked at
    once are named with other words later (`maft.index`); one that cannot be told apart so overrides `forward` alone.

    Attributes:
        brings_weights: its constructor has filled every parameter with trained weights, so that no checkpoint needs to
            hold them.
        starts_from_clip: every parameter starts as a copy of CLIP's, so that a training needs no file for them.
        brought_parts: of one that must be trained otherwise, the modules that its constructor has filled with trained
            weights, such as a CLIP of its own.
    """

    brings_weights: bool = False
    brought_parts: Sequence[str] = ()
    starts_from_clip: bool = False

    def forward(self, images: Images, proposals: Proposals, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Names masks.

        Args:
            images: the batch, raw RGB in 0..255; ``clip.normalize(images)`` gives CLIP's input.
            proposals: masks (B, Q, h, w), Q may be 0; in training without gradient.
            text: embeddings of the vocabulary; ``text.logits(embeddings)`` compares with it in float32.
            clip: the shared CLIP.

        Returns:
            logits (B, Q, C), or (B, Q, C + 1) with void last when ``text.void`` is not None.
        """
        return self.compare(self.embed(images, proposals, clip), text, clip)

    def embed(self, images: Images, proposals: Proposals, clip: CLIPEncoder) -> EmbeddedMasks:
        """Looks at the masks; arguments as of `forward`.

        Raises:
            UserError: it names masks in one step.
        """
        raise UserError(
            f"{type(self).__name__} looks at masks and names them in one step, so that nothing can be kept for other "
            "words: write its forward as embed and compare."
        )

    def compare(self, embedded: EmbeddedMasks, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Names masks that `embed` has looked at, with no image and no image tower; arguments as of `forward`."""
        raise NotImplementedError

    def trainable_parameters(self) -> Iterable[nn.Parameter]:
        """What trains unless ``MODEL.CLASSIFIER.FROZEN``: by default all that require a gradient after construction."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def trainable_clip_parameters(self, clip: CLIPEncoder) -> Iterable[nn.Parameter]:
        """What it trains of the shared CLIP, which is frozen otherwise; by default nothing."""
        return ()

    def training_proposals(self, proposals: Proposals, targets: list[Targets]) -> Proposals:
        """The masks it trains on, given those of the proposer; by default these."""
        return proposals

    def encode_image(self, images: Images, clip: CLIPEncoder, *, teacher: bool = False) -> Tensor:
        """Embeddings (B, D) of whole images by the tower it tunes, or with ``teacher`` by CLIP's own frozen one.

        Raises:
            UserError: it tunes no image tower.
        """
        raise UserError(
            f"SelfDistillationLoss needs a classifier that fine-tunes an image tower, which {type(self).__name__} does "
            "not: use IPCLIP or remove the loss from MODEL.LOSSES."
        )

    def forward_with_images(
        self, images: Images, proposals: Proposals, text: TextClassifier, clip: CLIPEncoder
    ) -> tuple[Classification, Tensor]:
        """`forward`, and `encode_image` of the same images; one whose two passes begin alike runs that part once."""
        return self(images, proposals, text, clip), self.encode_image(images, clip)

    def teacher_features(self, images: Images, clip: CLIPEncoder) -> Tensor:
        """Dense features (B, C, h, w) of the image tower as pre-trained, where it tunes the shared one.

        Raises:
            UserError: it does not.
        """
        raise UserError(
            f"RepresentationCompensationLoss needs a classifier that tunes CLIP's trunk, which {type(self).__name__} "
            "does not: use MAFTPlus or remove the loss from MODEL.LOSSES."
        )


@dataclass
class TrainingStep:
    """One batch as a loss sees it, from raw images to class scores.

    Attributes:
        images: the padded batch.
        text: text embeddings of the training vocabulary.
        proposals: masks outside the autograd graph; for some classifiers mixed with ground truth.
        classification: the classifier's scores of those proposals.
        targets: ground truth of each image, masks at the padded size.
        classifier: the mask classifier itself.
        clip: the frozen CLIP, teacher of distillation losses.
        image_embeddings: (B, D) of `MaskClassifier.encode_image`, with gradient; None where no loss ``reads_images``.
    """

    images: Images
    text: TextClassifier
    proposals: Proposals
    classification: Classification
    targets: list[Targets]
    classifier: MaskClassifier
    clip: CLIPEncoder
    image_embeddings: Tensor | None = None


class Loss(Component, nn.Module):
    """A loss of the mask classifier.

    Attributes:
        reads_images: compares embeddings of whole images, `TrainingStep.image_embeddings`.
    """

    reads_images: bool = False

    def forward(self, step: TrainingStep) -> dict[str, Tensor]:
        """Weighted scalar losses by name (``loss_...``), each with a gradient path also when nothing counts."""
        raise NotImplementedError


@dataclass
class ClassScores:
    """Input of an ensemble.

    Attributes:
        proposer: (B, Q, C + 1) logits of the proposer, void last, or None.
        classifier: (B, Q, C) logits of the mask classifier without void, or None.
        classifier_void: (B, Q, 1) its void logits, or None.
        valid: (B, Q) bool, masks that the classifier could see.
        seen: (C,) bool, classes of the training vocabulary.
    """

    proposer: Tensor | None
    classifier: Tensor | None
    classifier_void: Tensor | None
    valid: Tensor
    seen: Tensor

    def proposer_probabilities(self) -> Tensor:
        """(B, Q, C + 1) softmax over classes and void; raises `UserError` when the proposer gives none."""
        if self.proposer is None:
            raise UserError(
                "This ensemble needs class scores of the proposer, and this proposer gives none: set "
                "MODEL.ENSEMBLE.NAME to ClassifierAlone."
            )
        return self.proposer.softmax(dim=-1)

    def proposer_with_void(self) -> Tensor:
        """(B, Q, C + 1) logits; raises `UserError` when the proposer gives none, or none of void."""
        self.proposer_probabilities()
        assert self.proposer is not None
        if self.proposer.shape[-1] == len(self.seen):
            raise UserError(
                "This ensemble needs the no-object scores of the proposer: set MODEL.VOCABULARY.VOID to True, or "
                "MODEL.ENSEMBLE.NAME to ClassifierAlone or ProposerAlone."
            )
        return self.proposer

    def classifier_probabilities(self) -> Tensor:
        """(B, Q, C) softmax over the classes, void left out before it; raises `UserError` without a classifier."""
        if self.classifier is None:
            raise UserError(
                "This ensemble needs a mask classifier: set MODEL.CLASSIFIER.NAME, or MODEL.ENSEMBLE.NAME to "
                "ProposerAlone."
            )
        return self.classifier.softmax(dim=-1)


class Ensemble(Component):
    """How class scores of proposer and classifier become one."""

    def __call__(self, scores: ClassScores) -> Tensor:
        """(B, Q, C) or (B, Q, C + 1) probabilities, void last; a row of zeros takes its proposal out of the result."""
        raise NotImplementedError


class Trainable(nn.Module):
    """A model that the trainer can train: what ``MODEL.META_ARCHITECTURE`` names."""

    def forward(self, records: list[dict[str, Any]]) -> Any:
        """In training mode weighted scalar losses by name, otherwise results, of a batch of mapped records."""
        raise NotImplementedError

    def brought_weights(self) -> list[str]:
        """Names of parts whose weights no checkpoint needs to hold, see ``brings_weights``; by default none."""
        return []

    def started_weights(self) -> list[str]:
        """Names of parts that start from trained weights without a file; by default those of `brought_weights`.

        May name what is below a part, as in "classifier.clip".
        """
        return self.brought_weights()

    @torch.no_grad()
    def after_optimizer_step(self) -> None:
        """Called by the trainer after every optimiser step, before a checkpoint is written; by default nothing."""


class RegionNaming(Trainable):
    """A model that names annotated regions, cut out of their images; `maft.evaluation.regions` evaluates it.

    In evaluation mode a call takes records with "region" (3, h, w) uint8, "mask" (1, h, w) bool and "category" and
    returns "logits" (n, C) over the names of ``vocabulary``.

    Attributes:
        clip, vocabulary_encoder: what encodes the names.
        vocabulary: the names, None until there are some.
    """

    clip: CLIPEncoder
    vocabulary_encoder: VocabularyEncoder
    vocabulary: Vocabulary | None = None

    def text(self) -> TextClassifier:
        """The names as CLIP reads them; raises `UserError` while there are none."""
        if self.vocabulary is None:
            raise UserError(f"{type(self).__name__} has no names to compare regions with: set DATASETS.TEST.")
        return self.vocabulary_encoder(self.vocabulary, self.clip)

    @contextmanager
    def using_vocabulary(self, vocabulary: Vocabulary) -> Iterator[None]:
        """Other class names for the length of a with block."""
        before, self.vocabulary = self.vocabulary, vocabulary
        try:
            yield
        finally:
            self.vocabulary = before
