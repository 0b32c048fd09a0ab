"""The one segmentation model: a proposer makes masks, a classifier lets CLIP name them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from maft.answers import check_answers
from maft.clip import CLIPEncoder, VocabularyEncoder
from maft.ensembles import class_scores
from maft.errors import UserError
from maft.inference import has_background, image_result
from maft.interfaces import (
    Ensemble,
    Loss,
    MaskClassifier,
    Proposer,
    Trainable,
    TrainingStep,
)
from maft.parts import segmentor_parts
from maft.sharpening import check_no_examples, sharpened, with_wordless_classes
from maft.structures import Classification, EmbeddedMasks, Images, Proposals, Targets, TextClassifier, Vocabulary
from maft.summed_logits import row_logits


@META_ARCH_REGISTRY.register()
class OpenVocabSegmentor(Trainable):
    """Mask-based open-vocabulary segmentation.

    Args:
        clip: the shared CLIP encoder.
        vocabulary_encoder: class names -> `TextClassifier`.
        classifier_vocabulary_encoder: that of the classifier, where its texts are not the proposer's.
        proposer, classifier, ensemble: see `maft.interfaces`; without a classifier the proposer's own scores are used.
        losses: loss terms of the classifier, called with a `TrainingStep`.
        freeze_proposer: no gradients and no losses of the proposer; it stays in eval mode.
        dropout_when_frozen: official MAFT behaviour: the frozen proposer keeps its dropout in training.
        freeze_classifier: the same for the classifier.
        inference: options of post-processing, ``MODEL.INFERENCE`` in lower case.
        vocabulary: names the masks are given until `set_vocabulary` is called; None leaves it open.
        things: for panoptic and instance results, which classes are things.
    """

    @configurable
    def __init__(
        self,
        *,
        clip: CLIPEncoder,
        vocabulary_encoder: VocabularyEncoder,
        classifier_vocabulary_encoder: VocabularyEncoder | None = None,
        proposer: Proposer,
        classifier: MaskClassifier | None,
        ensemble: Ensemble,
        losses: Mapping[str, Loss],
        freeze_proposer: bool = False,
        dropout_when_frozen: bool = False,
        freeze_classifier: bool = False,
        inference: dict[str, Any],
        vocabulary: Vocabulary | None = None,
        things: Sequence[bool] | None = None,
    ) -> None:
        super().__init__()
        self.clip, self.vocabulary_encoder = clip, vocabulary_encoder
        self.classifier_vocabulary_encoder = classifier_vocabulary_encoder
        self.proposer, self.classifier, self.ensemble = proposer, classifier, ensemble
        self.losses = nn.ModuleDict(losses)
        self.freeze_proposer, self.dropout_when_frozen = freeze_proposer, dropout_when_frozen
        self.freeze_classifier = freeze_classifier
        self.inference_options = inference
        self._vocabulary, self._things = vocabulary, things
        check_answers(proposer, classifier, ensemble, losses.values())
        self._choose_trainable_parameters()

    @classmethod
    def from_config(cls, cfg: CfgNode, clip_weights: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Arguments from a config; ``clip_weights`` replace those that ``MODEL.CLIP.PRETRAINED`` names."""
        return segmentor_parts(cfg, clip_weights)

    @property
    def device(self) -> torch.device:
        return self.clip.device

    @property
    def vocabulary(self) -> Vocabulary:
        """The names in use; raises `UserError` while there are none."""
        if self._vocabulary is None:
            raise UserError("The model has no vocabulary yet: set DATASETS.TRAIN, or call set_vocabulary.")
        return self._vocabulary

    def set_vocabulary(self, vocabulary: Vocabulary, things: Sequence[bool] | None = None) -> None:
        """Changes the names masks are given; ``things`` (C flags) is needed for panoptic and instance results."""
        self._vocabulary = vocabulary
        self._things = things

    @contextmanager
    def using_vocabulary(self, vocabulary: Vocabulary, things: Sequence[bool] | None = None) -> Iterator[None]:
        """`set_vocabulary` for the length of a with block; evaluation leaves a training model's names as they were."""
        before = self._vocabulary, self._things
        self.set_vocabulary(vocabulary, things)
        try:
            yield
        finally:
            self._vocabulary, self._things = before

    def train(self, mode: bool = True) -> OpenVocabSegmentor:
        """Training mode for the parts that train; frozen parts stay in eval mode."""
        super().train(mode)
        if mode:
            if not any(parameter.requires_grad for parameter in self.clip.parameters()):
                self.clip.eval()
            if self.freeze_proposer:
                self.proposer.train(self.dropout_when_frozen)
            if self.freeze_classifier and self.classifier is not None:
                self.classifier.eval()
        return self

    def _choose_trainable_parameters(self) -> None:
        trainable: list[nn.Parameter] = []
        if not self.freeze_proposer:
            trainable += self.proposer.trainable_parameters()
            trainable += self.proposer.trainable_clip_parameters(self.clip)
        if self.classifier is not None and not self.freeze_classifier:
            trainable += self.classifier.trainable_parameters()
            trainable += self.classifier.trainable_clip_parameters(self.clip)
        for part in (self.clip, self.proposer, self.classifier):
            if part is not None:
                part.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)
        if self.classifier_vocabulary_encoder is not None and self.freeze_classifier:
            # Nothing in training reads the texts of a frozen classifier.
            self.classifier_vocabulary_encoder.requires_grad_(False)

    def brought_weights(self) -> list[str]:
        """The parts whose weights no checkpoint needs to hold: see ``brings_weights`` of `maft.interfaces`."""
        parts = {"proposer": self.proposer, "classifier": self.classifier}
        return [name for name, part in parts.items() if part is not None and part.brings_weights]

    def started_weights(self) -> list[str]:
        """Those, a classifier whose tower is a copy of CLIP's, and what another one brings."""
        if self.classifier is None:
            return self.brought_weights()
        copied = ["classifier"] if self.classifier.starts_from_clip else []
        return [*self.brought_weights(), *copied, *(f"classifier.{name}" for name in self.classifier.brought_parts)]

    def padded(self, records: Sequence[dict[str, Any]]) -> Images:
        """The images of mapped records as one batch on the model's device."""
        images = [record["image"].to(self.device, non_blocking=True) for record in records]
        return Images.from_list(images, self.proposer.size_divisibility)

    def forward(self, records: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses in training, results otherwise.

        Args:
            records: Detectron2 dicts; "image" is (3, h, w) RGB in 0..255, uint8 or float; in training
                "instances" holds gt_classes (n,) int64 and gt_masks (n, h, w) bool; "height" and "width" are the
                output size, by default the image's own.

        Returns:
            training: weighted losses by name. Otherwise one dict per image with "sem_seg_labels" (H, W) int64, -1 where
            no mask says anything, their "sem_seg_confidence" (H, W) in 0..1 (see `labels_of_scores`), unless
            ``labels_only`` the scores of all classes "sem_seg" (C, H, W), and, when turned on, "panoptic_seg" and
            "instances".
        """
        if not records:
            raise UserError("The batch is empty: give the model at least one image.")
        if self.training:
            return self._training_losses(self.padded(records), records)
        return self.predict(records, self.vocabulary, self._things)

    @torch.no_grad()
    def predict(
        self,
        records: Sequence[dict[str, Any]],
        vocabulary: Vocabulary,
        things: Sequence[bool] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """What `forward` returns in evaluation mode, with names of the call's own.

        Nothing is remembered, so that several threads may call one model at a time.

        Args:
            records: see `forward`.
            vocabulary: the names masks are given.
            things: (C) flags, for panoptic and instance results.
            options: ``MODEL.INFERENCE`` in lower case; None: the model's.
        """
        images = self.padded(records)
        proposals = self.propose(images, records, vocabulary)
        classification = self.classify(images, proposals, vocabulary)
        return self.combine(images, proposals, classification, records, vocabulary, things, options)

    def _training_losses(self, images: Images, records: list[dict[str, Any]]) -> dict[str, Tensor]:
        targets = self._targets(images, records)
        text = self.vocabulary_encoder(self.vocabulary, self.clip)
        with torch.no_grad() if self.freeze_proposer else nullcontext():
            proposals = self.proposer(images, text, self.clip, targets, records)
        losses: dict[str, Tensor] = {}
        if not self.freeze_proposer:
            losses.update(self.proposer.losses(proposals, text, targets))
        if self.classifier is not None and not self.freeze_classifier and len(self.losses):
            if self.classifier_vocabulary_encoder is not None:
                text = self.classifier_text()
            masks = self.classifier.training_proposals(proposals.detached(), targets)
            step = self._step(images, text, masks, targets)
            for name, loss in self.losses.items():
                terms = loss(step)
                if double := sorted(terms.keys() & losses.keys()):
                    raise UserError(
                        f"{name} returns {double[0]!r}, which another loss returns too: rename one of them."
                    )
                losses.update(terms)
        if not losses:
            raise UserError(
                "Nothing trains: the proposer and the classifier are both frozen, or MODEL.LOSSES is empty."
            )
        return losses

    def _step(self, images: Images, text: TextClassifier, proposals: Proposals, targets: list[Targets]) -> TrainingStep:
        """What the losses of the classifier see of a batch."""
        assert self.classifier is not None, "without a classifier it has no losses"
        inputs = (images, proposals, text, self.clip)
        whole: Tensor | None = None
        if any(loss.reads_images for loss in self.losses.values()):
            classification, whole = self.classifier.forward_with_images(*inputs)
        else:
            classification = self.classifier(*inputs)
        return TrainingStep(
            images, text, proposals, classification, targets, self.classifier, self.clip, image_embeddings=whole
        )

    def _targets(self, images: Images, records: Sequence[dict[str, Any]]) -> list[Targets]:
        height, width = images.padded_size
        targets = []
        for record in records:
            instances = record["instances"].to(self.device, non_blocking=True)
            masks = instances.gt_masks
            padding = (0, width - masks.shape[-1], 0, height - masks.shape[-2])
            targets.append(Targets(instances.gt_classes, F.pad(masks, padding)))
        return targets

    def propose(
        self, images: Images, records: Sequence[dict[str, Any]], vocabulary: Vocabulary | None = None
    ) -> Proposals:
        """Masks of a batch; annotated images let a proposer of ground truth see their targets.

        Here and below, ``vocabulary`` None stands for the names in use.
        """
        targets = None
        if self.proposer.needs_targets and records and "instances" in records[0]:
            targets = self._targets(images, records)
        names = vocabulary or self.vocabulary
        proposals = self.proposer(images, self._text(names), self.clip, targets, records)
        return replace(proposals, class_logits=with_wordless_classes(proposals.class_logits, names))

    def classify(
        self, images: Images, proposals: Proposals, vocabulary: Vocabulary | None = None
    ) -> Classification | None:
        """What the classifier says of masks; None without a classifier."""
        names = vocabulary or self.vocabulary
        if self.classifier is None:
            return None
        if names.examples:
            return self.named(self.classifier.embed(images, proposals, self.clip), names)
        return self.classifier(images, proposals, self.classifier_text(names), self.clip)

    def named(self, embedded: EmbeddedMasks, vocabulary: Vocabulary | None = None) -> Classification:
        """`classify` for masks that the classifier has looked at (`MaskClassifier.embed`): no image is needed."""
        assert self.classifier is not None, "without a classifier nothing has been embedded"
        names, classifier, clip = vocabulary or self.vocabulary, self.classifier, self.clip
        text = self.classifier_text(names)
        named = classifier.compare(embedded, text, clip)
        if not names.examples:
            return named
        return sharpened(named, embedded, names, lambda looks: classifier.compare(looks, text, clip))

    def scored(self, proposals: Proposals, vocabulary: Vocabulary | None = None) -> Proposals:
        """Proposals with the proposer's class scores of a vocabulary in the place of theirs; needs no image either."""
        if proposals.queries is None:
            return proposals
        names = vocabulary or self.vocabulary
        scores = self.proposer.class_logits(proposals.queries, self._text(names))
        return replace(proposals, class_logits=with_wordless_classes(scores, names))

    def _text(self, vocabulary: Vocabulary) -> TextClassifier:
        return self.vocabulary_encoder(vocabulary.in_words(), self.clip)

    def classifier_text(self, vocabulary: Vocabulary | None = None) -> TextClassifier:
        """The texts that the classifier compares with, of the classes whose words take part."""
        encoder = self.classifier_vocabulary_encoder or self.vocabulary_encoder
        return encoder((vocabulary or self.vocabulary).in_words(), self.clip)

    def class_probabilities(
        self, proposals: Proposals, classification: Classification | None, vocabulary: Vocabulary | None = None
    ) -> Tensor:
        """(B, Q, C) or (B, Q, C + 1) joint class probabilities; zero rows for padding slots."""
        names = vocabulary or self.vocabulary
        if classification is None:
            check_no_examples(names)
        seen = torch.tensor(names.seen or [False] * len(names), device=self.device)
        probabilities = self.ensemble(class_scores(proposals, classification, seen))
        if proposals.valid is not None:
            probabilities = probabilities * proposals.valid[..., None]
        return probabilities

    def combine(
        self,
        images: Images,
        proposals: Proposals,
        classification: Classification | None,
        records: Sequence[dict[str, Any]],
        vocabulary: Vocabulary | None = None,
        things: Sequence[bool] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Results of a batch, as `predict` returns them, from its masks and their classification."""
        if vocabulary is None:
            vocabulary, things = self.vocabulary, self._things
        of_seen, of_things = (
            None if flags is None else torch.tensor(flags, device=self.device) for flags in (vocabulary.seen, things)
        )
        options = self.inference_options if options is None else options
        probabilities = self.class_probabilities(proposals, classification, vocabulary)
        rows = row_logits(proposals, classification, len(vocabulary)) if options.get("sum_logits") else None
        results = []
        for index, (record, size) in enumerate(zip(records, images.sizes, strict=True)):
            output = (int(record.get("height", size[0])), int(record.get("width", size[1])))
            # Sums over proposals need more digits than the precision that the model may run in.
            with torch.autocast(self.device.type, enabled=False):
                results.append(
                    image_result(
                        probabilities[index].float(),
                        proposals.masks[index].float(),
                        output,
                        padded_size=proposals.own_size or images.padded_size,
                        image_size=proposals.own_size or size,
                        are_logits=proposals.are_logits,
                        align_corners=proposals.align_corners,
                        classes=len(vocabulary),
                        seen=of_seen,
                        things=of_things,
                        options=options,
                        rows=None if rows is None else rows.image(index),
                        background=has_background(vocabulary),
                    )
                )
        return results
