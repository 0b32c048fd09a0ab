"""What every component must do, as tests that a component joins in three lines (pytest collects the methods)::

    class TestMaxPooling(ClassifierConformance):
        name = "MaxPooling"
        options = {"MASK_THRESHOLD": 0.5}

They run on the CPU with a shipped tiny CLIP and random inputs. Shape letters as in `maft.interfaces`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from maft.backbones import backbone_from_config
from maft.clip import CLIPEncoder, VocabularyEncoder, load_clip
from maft.config_keys import default_config
from maft.examples import Example, ExampleEmbeddings
from maft.interfaces import BuildContext, ClassScores, MaskClassifier, Proposer, TrainingStep
from maft.registry import CLASSIFIERS, ENSEMBLES, LOSSES, PROPOSERS, Registry
from maft.sharpening import sharpened
from maft.structures import Images, Proposals, Targets, TextClassifier, Vocabulary

SIZES = [(64, 96), (96, 64)]
NAMES = ("cat", "dog", "brick")


@cache
def tiny_clip(name: str) -> CLIPEncoder:
    """A shipped tiny CLIP: ``tiny_vit`` or ``tiny_convnext``; all tests share it, so each leaves it frozen and without
    gradients."""
    return load_clip(name)


def context(clip: CLIPEncoder) -> BuildContext:
    """Of a model with three classes and a narrow ResNet-18."""
    cfg = default_config()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_basic_resnet_backbone", 0
    resnet = cfg.MODEL.RESNETS
    resnet.DEPTH, resnet.NORM, resnet.STEM_OUT_CHANNELS, resnet.RES2_OUT_CHANNELS = 18, "FrozenBN", 8, 16
    resnet.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return BuildContext(clip, len(NAMES), lambda: backbone_from_config(cfg))


def texts(clip: CLIPEncoder, names: tuple[str, ...] = NAMES, *, void: bool = True) -> TextClassifier:
    """Embeddings of class names."""
    torch.manual_seed(1)
    return VocabularyEncoder(clip.embed_dim, clip.text_width, templates="single", void=void)(Vocabulary(names), clip)


def batch(*sizes: tuple[int, int], divisor: int = 32) -> Images:
    """Random images."""
    torch.manual_seed(2)
    return Images.from_list([torch.randint(0, 256, (3, *size)).float() for size in sizes], divisor)


def with_noisy_padding(images: Images) -> Images:
    """The same images with noise where nothing should look."""
    noise = torch.rand_like(images.pixels) * 255
    return Images(torch.where(images.inside(), images.pixels, noise), images.sizes)


def ground_truth(images: Images, masks: int = 2) -> list[Targets]:
    """Rectangles of the first classes inside each image."""
    shown = torch.zeros(masks, *images.padded_size, dtype=torch.bool)
    for index in range(masks):
        shown[index, 8 * index : 8 * index + 32, 4 * index : 4 * index + 40] = True
    return [Targets(torch.arange(masks), shown.clone()) for _ in images.sizes]


def predictions(images: Images, masks: int = 5) -> Proposals:
    """Mask logits of smooth random blobs at a quarter of the images' size, with class logits."""
    torch.manual_seed(3)
    height, width = images.padded_size
    coarse = torch.randn(len(images.sizes), max(masks, 1), height // 16, width // 16)[:, :masks] * 4
    logits = coarse.repeat_interleave(4, -1).repeat_interleave(4, -2)
    scores = torch.randn(len(images.sizes), masks, len(NAMES) + 1)
    return Proposals(logits, images.padded_size, class_logits=scores)


def assert_trains(losses: Mapping[str, Tensor], parameters: list[nn.Parameter]) -> None:
    """A backward pass gives finite gradients, and some of them are not zero."""
    torch.stack(list(losses.values())).sum().backward()
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert gradients, "no trainable parameter has a gradient"
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


class _Conformance:
    """What a test class states.

    Attributes:
        name: of the component in its registry.
        options: as a config has them.
        clip: the tiny CLIP it runs on.
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    clip: ClassVar[str] = "tiny_vit"


class _ModuleConformance(_Conformance):
    """Of what has weights: proposers and classifiers."""

    registry: ClassVar[Registry]

    def prepare(self, folder: Path) -> Mapping[str, Any]:
        """Hook: further options, once the files they name have been written into a folder."""
        return {}

    def build(self, folder: Path) -> Any:
        torch.manual_seed(0)
        options = {**self.options, **self.prepare(folder)}
        return self.registry.build(self.name, options, context(tiny_clip(self.clip))).eval()

    def output(self, component: Any) -> Tensor:
        """What it makes of one image."""
        raise NotImplementedError

    @torch.no_grad()
    def test_saved_and_loaded_it_does_the_same(self, tmp_path: Path) -> None:
        first, second = self.build(tmp_path), self.build(tmp_path)
        for parameter in first.parameters():
            parameter.add_(0.01)
        second.load_state_dict(first.state_dict())
        torch.testing.assert_close(self.output(second), self.output(first))

    @torch.no_grad()
    def test_it_runs_in_half_precision(self, tmp_path: Path) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            assert self.output(self.build(tmp_path)).isfinite().all()


class ProposerConformance(_ModuleConformance):
    """Of a proposer; ``records`` are the Detectron2 dicts it is given."""

    records: ClassVar[list[dict[str, Any]]] = [{"file_name": "one.png"}, {"file_name": "two.png"}]
    registry = PROPOSERS

    def propose(self, proposer: Proposer, images: Images, names: tuple[str, ...] = NAMES) -> Proposals:
        clip = tiny_clip(self.clip)
        targets = ground_truth(images) if proposer.needs_targets or proposer.training else None
        # Images of one size are two looks at the first file.
        records = [self.records[SIZES.index(size)] for size in images.sizes]
        return proposer(images, texts(clip, names), clip, targets, records)

    def output(self, component: Proposer) -> Tensor:
        return self.propose(component, batch(SIZES[0], divisor=component.size_divisibility)).masks

    @torch.no_grad()
    def test_masks_span_the_padded_batch(self, tmp_path: Path) -> None:
        proposer = self.build(tmp_path)
        images = batch(*SIZES, divisor=proposer.size_divisibility)
        proposals = self.propose(proposer, images)
        count = proposals.masks.shape[1]
        assert proposals.masks.shape[0] == 2 and count >= 1 and proposals.masks.is_floating_point()
        assert proposals.padded_size == images.padded_size and proposals.masks.isfinite().all()
        assert proposals.are_logits or (proposals.masks.min() >= 0 and proposals.masks.max() <= 1)
        assert proposals.class_logits is None or proposals.class_logits.shape == (2, count, len(NAMES) + 1)
        for flags in (proposals.valid, proposals.labels):
            assert flags is None or flags.shape == (2, count)

    @torch.no_grad()
    def test_one_class_is_enough(self, tmp_path: Path) -> None:
        proposals = self.propose(self.build(tmp_path), batch(SIZES[0]), ("cat",))
        assert proposals.class_logits is None or proposals.class_logits.shape[-1] == 2

    @torch.no_grad()
    def test_neither_padding_nor_another_image_changes_an_image(self, tmp_path: Path) -> None:
        proposer = self.build(tmp_path)
        images = batch(SIZES[0], SIZES[0], divisor=proposer.size_divisibility)
        alone = Images(images.pixels[:1], images.sizes[:1])
        expected, found = self.propose(proposer, alone), self.propose(proposer, with_noisy_padding(images))
        count = expected.masks.shape[1]
        torch.testing.assert_close(found.masks[:1, :count], expected.masks, rtol=1e-3, atol=1e-3)

    @torch.no_grad()
    def test_what_is_kept_for_other_words_gives_its_class_scores(self, tmp_path: Path) -> None:
        proposer = self.build(tmp_path)
        proposals = self.propose(proposer, batch(SIZES[0], divisor=proposer.size_divisibility))
        if proposals.queries is not None:
            found = proposer.class_logits(proposals.queries, texts(tiny_clip(self.clip)))
            torch.testing.assert_close(found, proposals.class_logits)

    def test_what_trains_gets_gradients(self, tmp_path: Path) -> None:
        proposer = self.build(tmp_path)
        if not (parameters := list(proposer.trainable_parameters())):
            return
        images, clip = batch(*SIZES, divisor=proposer.size_divisibility), tiny_clip(self.clip)
        proposals = self.propose(proposer.train(), images)
        losses = proposer.losses(proposals, texts(clip), ground_truth(images))
        assert losses and all(loss.dim() == 0 and loss.isfinite() for loss in losses.values())
        assert_trains(losses, parameters)
        empty = proposer.losses(self.propose(proposer, images), texts(clip), ground_truth(images, 0))
        torch.stack(list(empty.values())).sum().backward()


class ClassifierConformance(_ModuleConformance):
    """Of a mask classifier."""

    registry = CLASSIFIERS

    def logits(self, classifier: MaskClassifier, images: Images, proposals: Proposals, **options: Any) -> Tensor:
        clip = tiny_clip(self.clip)
        return classifier(images, proposals, texts(clip, **options), clip).logits

    def output(self, component: MaskClassifier) -> Tensor:
        images = batch(SIZES[0])
        logits = self.logits(component, images, predictions(images))
        assert logits.dtype == torch.float32, "logits are in single precision, also under autocast"
        return logits

    @torch.no_grad()
    def test_every_mask_gets_a_score_for_every_class(self, tmp_path: Path) -> None:
        classifier, images = self.build(tmp_path), batch(*SIZES)
        for masks in (predictions(images), predictions(images, 1)):
            binary = replace(masks, masks=(masks.masks > 0).float(), are_logits=False)
            for proposals in (masks, binary):
                count = proposals.masks.shape[1]
                assert self.logits(classifier, images, proposals).shape == (2, count, len(NAMES) + 1)
                found = self.logits(classifier, images, proposals, void=False)
                assert found.shape == (2, count, len(NAMES)) and found.isfinite().all()

    @torch.no_grad()
    def test_looking_and_naming_give_what_one_call_gives(self, tmp_path: Path) -> None:
        classifier, images, clip = self.build(tmp_path), batch(*SIZES), tiny_clip(self.clip)
        if type(classifier).embed is MaskClassifier.embed:
            return
        embedded = classifier.embed(images, predictions(images), clip)
        assert embedded.embeddings.shape[:2] == (2, 5)
        for names in (NAMES, ("brick",)):
            found = classifier.compare(embedded, texts(clip, names), clip).logits
            torch.testing.assert_close(found, self.logits(classifier, images, predictions(images), names=names))

    @torch.no_grad()
    def test_examples_raise_their_class_where_they_are_and_change_no_other(self, tmp_path: Path) -> None:
        classifier, images, clip = self.build(tmp_path), batch(SIZES[0]), tiny_clip(self.clip)
        seen = classifier.embed(images, predictions(images), clip)
        look = ExampleEmbeddings(
            seen.embeddings[0], torch.arange(5) == 0, {name: values[0] for name, values in seen.context.items()}
        )
        pixels = np.zeros((4, 4, 3), np.uint8)
        example = Example(pixels, np.eye(4, dtype=bool)).with_look(self.name, look)
        for vocabulary in (
            Vocabulary(NAMES).add(NAMES[1], [example]),
            Vocabulary(NAMES).add("mug", [example], words=False),
        ):
            for void in (True, False):
                text = texts(clip, vocabulary.in_words().names, void=void)
                words = classifier.compare(seen, text, clip)
                found = sharpened(words, seen, vocabulary, lambda one: classifier.compare(one, text, clip))  # noqa: B023
                assert found.logits.isfinite().all() and found.has_void == words.has_void
                assert found.logits.shape[-1] == len(vocabulary) + found.has_void
                torch.testing.assert_close(found.logits[..., [0, 2]], words.logits[..., [0, 2]], rtol=0, atol=0)
                if seen.valid is not None and not seen.valid.all():
                    continue
                if vocabulary.words:
                    assert found.logits[0, :, len(NAMES)].argmax() == 0
                else:
                    change = (found.logits - words.logits)[0, :, 1]
                    assert change[0] >= change[1:].mean() - 1e-4

    @torch.no_grad()
    def test_no_mask_an_empty_mask_and_one_class_are_enough(self, tmp_path: Path) -> None:
        classifier, images = self.build(tmp_path), batch(*SIZES)
        assert self.logits(classifier, images, predictions(images, 0)).shape == (2, 0, len(NAMES) + 1)
        empty = replace(predictions(images), masks=torch.full_like(predictions(images).masks, -9.0))
        assert self.logits(classifier, images, empty).isfinite().all()
        assert self.logits(classifier, images, predictions(images), names=("cat",), void=False).shape == (2, 5, 1)

    @torch.no_grad()
    def test_neither_padding_nor_another_image_changes_an_image(self, tmp_path: Path) -> None:
        classifier, images = self.build(tmp_path), batch((60, 90), (60, 90))
        proposals = predictions(images)
        alone = self.logits(classifier, Images(images.pixels[:1], images.sizes[:1]), proposals.image(0))
        found = self.logits(classifier, with_noisy_padding(images), proposals)
        torch.testing.assert_close(found[:1], alone, rtol=1e-3, atol=1e-3)

    def test_what_trains_gets_gradients(self, tmp_path: Path) -> None:
        classifier, images, clip = self.build(tmp_path).train(), batch(*SIZES), tiny_clip(self.clip)
        parameters = [*classifier.trainable_parameters(), *classifier.trainable_clip_parameters(clip)]
        if not parameters:
            return
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            masks = classifier.training_proposals(predictions(images), ground_truth(images))
            assert_trains({"logits": self.logits(classifier, images, masks, void=False).square().mean()}, parameters)
        finally:
            clip.requires_grad_(False).zero_grad()


class LossConformance(_Conformance):
    """Of a loss, on a batch of the classifier ``classifier`` with ``classifier_options``."""

    classifier: ClassVar[str] = "IPCLIP"
    classifier_options: ClassVar[Mapping[str, Any]] = {"START_LAYER": 2, "INPUT_SIZE": 96}

    def losses(self, masks: int) -> tuple[dict[str, Tensor], list[nn.Parameter]]:
        """The losses of a batch with so many annotated masks an image, and what they may train."""
        torch.manual_seed(0)
        clip, images = load_clip(self.clip), batch(*SIZES)
        classifier = CLASSIFIERS.build(self.classifier, self.classifier_options, context(clip)).train()
        parameters = [*classifier.trainable_parameters(), *classifier.trainable_clip_parameters(clip)]
        for parameter in parameters:
            parameter.requires_grad_(True)
        targets, text = ground_truth(images, masks), texts(clip)
        proposals = classifier.training_proposals(predictions(images), targets)
        classification = classifier(images, proposals, text, clip)
        step = TrainingStep(images, text, proposals, classification, targets, classifier, clip)
        return LOSSES.build(self.name, self.options)(step), parameters

    def test_losses_are_finite_scalars_that_train(self) -> None:
        losses, parameters = self.losses(2)
        assert losses and all(name.startswith("loss_") for name in losses)
        assert all(loss.dim() == 0 and loss.isfinite() for loss in losses.values())
        torch.stack(list(losses.values())).sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in parameters if parameter.grad is not None)

    def test_images_without_masks_leave_a_gradient_path(self) -> None:
        losses, _ = self.losses(0)
        assert all(loss.isfinite() for loss in losses.values())
        torch.stack(list(losses.values())).sum().backward()


class EnsembleConformance(_Conformance):
    """Of an ensemble."""

    def probabilities(self, classes: int, queries: int, seen: list[bool]) -> Tensor:
        torch.manual_seed(0)
        logits = torch.randn(2, queries, classes + 1) * 5
        valid = torch.arange(queries).expand(2, -1) % 2 == 0
        scores = ClassScores(logits, torch.randn(2, queries, classes) * 5, logits[..., -1:], valid, torch.tensor(seen))
        return ENSEMBLES.build(self.name, self.options)(scores)

    def test_probabilities_stay_between_0_and_1(self) -> None:
        for classes, seen in ((3, [True, False, True]), (3, [False] * 3), (3, [True] * 3), (1, [False])):
            for queries in (0, 4):
                found = self.probabilities(classes, queries, seen)
                assert found.shape[:2] == (2, queries) and found.shape[2] in (classes, classes + 1)
                assert found.isfinite().all() and (found >= 0).all() and (found <= 1).all()
