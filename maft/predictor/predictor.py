"""Images and class names in, what was found out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, overload

import torch
from numpy.typing import ArrayLike

from maft.calibration import Rejection
from maft.data.pixels import ImageLike, pictures_in, pixels_of
from maft.errors import UserError, shown
from maft.predictor.calibrated import rejection_of
from maft.predictor.examples import ExampleSource
from maft.predictor.looks import ExampleLooks
from maft.predictor.objects import instances_of, segments_of, words_in
from maft.predictor.prediction import Prediction
from maft.predictor.prompts import Points, check_asked, prompts_of
from maft.predictor.results import ModelResults
from maft.predictor.words import ClassNames, thing_flags, vocabulary_of
from maft.structures import Vocabulary
from maft.test_time import AveragedInference

Images = Iterable[ImageLike] | str | os.PathLike


class Predictor(ExampleSource, ExampleLooks, ModelResults):
    """A trained model that labels pictures with any words.

    A predictor keeps nothing of a call: its answer depends on the picture and the words alone, to the last bit, and
    several threads may share it.

    ```python
    from maft.predictor import Predictor

    predictor = Predictor.from_pretrained("miniature")
    prediction = predictor("scene.png", ["bear", "tree", "sky"], things=["bear"])
    print(prediction.summary())
    ```

    With ``alpha`` below 1 a call bounds its false alarms, words that are not in the picture and are answered:

        E[share of the offered absent words that are answered] <= alpha,

    of seen words (of the training vocabulary) and of unseen ones apart, by conformal risk control
    (`maft.calibration`). **This holds for a picture that is exchangeable with those of the calibration, with words
    offered alike**: pictures of the same kind, and the same kind and share of absent words. It is a mean over pictures
    and calibrations; no picture and no word has a bound of its own, nor has the share of pixels.

    Args:
        cfg: the model's config; ``MODEL.WEIGHTS`` is loaded when it is set.
        device, dtype, compile: see `Running`.

    Raises:
        UserError: the config cannot be built, its weights do not fit, or there is no such device.
    """

    def vocabulary(self, class_names: ClassNames | None = None) -> Vocabulary:
        """The user's words, each seen or unseen in training; None stands for the training vocabulary.

        Args:
            class_names: a list of names; a name may hold synonyms, separated by commas, which
                ``MODEL.VOCABULARY.SYNONYMS`` says what to make of. One text is one name, however many commas are in
                it. A dictionary has names and their synonyms: ``{"cat": ["kitten", "tabby"]}`` is "cat, kitten, tabby".
                A `Vocabulary`, which may have examples, stays as it is but for flags that it has not.

        Raises:
            UserError: there are none, they are no texts, or two of them are alike for CLIP.
        """
        if class_names is not None:
            return vocabulary_of(class_names, self._training)
        if self._training is None:
            raise UserError("The model has no vocabulary of its own (DATASETS.TRAIN is empty): give class names.")
        return self._training

    def unknown_words(self, class_names: ClassNames | None = None) -> tuple[str, ...]:
        """The words that this model's CLIP has never seen, each once.

        What it says of them is a guess. CLIPs with byte pairs, as OpenAI's, write any word and cannot tell.
        """
        return self.model.clip.unknown_words(self.vocabulary(class_names).in_words().names)

    @torch.no_grad()
    def prepare(self, class_names: ClassNames | None = None) -> Vocabulary:
        """Encodes the user's words and looks at examples, which calls with the same ones then find ready.

        Returns:
            the vocabulary, whose examples know what this model sees of them: saved so, it names masks of an index.

        Raises:
            UserError: see `vocabulary` and `with_looks`; a word is too long for CLIP, or the folder of kept embeddings
                is unwritable.
        """
        words = self.vocabulary(class_names)
        self.model.vocabulary_encoder(words.in_words(), self.model.clip)
        if (of_regions := self.model.classifier_vocabulary_encoder) is not None:
            of_regions(words.in_words(), self.model.clip)
        return self.with_looks(words)

    def asked(self, class_names: ClassNames | None) -> Vocabulary:
        """A vocabulary as the model takes it: with what the model, and no other one, sees of examples."""
        words = self.vocabulary(class_names)
        return self.with_looks(words).seen_by(self.fingerprint) if words.examples else words

    @overload
    def __call__(
        self,
        image: list[ImageLike] | tuple[ImageLike, ...],
        class_names: ClassNames | None = None,
        things: Sequence[str] | Literal["all"] | None = None,
        *,
        none_below: float = 0.0,
        alpha: float = 1.0,
    ) -> list[Prediction]: ...

    @overload
    def __call__(
        self,
        image: ImageLike,
        class_names: ClassNames | None = None,
        things: Sequence[str] | Literal["all"] | None = None,
        *,
        none_below: float = 0.0,
        alpha: float = 1.0,
        boxes: ArrayLike | None = None,
        points: Points | None = None,
    ) -> Prediction: ...

    def __call__(
        self,
        image: ImageLike | Iterable[ImageLike],
        class_names: ClassNames | None = None,
        things: Sequence[str] | Literal["all"] | None = None,
        *,
        none_below: float = 0.0,
        alpha: float = 1.0,
        boxes: ArrayLike | None = None,
        points: Points | None = None,
    ) -> Prediction | list[Prediction]:
        """Labels a picture, or several, with the user's words.

        Args:
            image: a path, an https address, the bytes of a picture file, a Pillow image, an array or a tensor, see
                `maft.data.pixels.pixels_of`; or a list of these or a folder, whose predictions come as a list (`stream`
                gives them one by one). A proposer that reads masks from disk finds them by the path.
            class_names: see `vocabulary`; None: the training vocabulary.
            things: asks for panoptic segments and instances as well, and says which of the names are countable: each
                instance of theirs is a segment, while all of another class is one. "all": every name; []: none.
                A model whose config is for labels alone proposes regions several times, see `maft.predictor.merging`.
            none_below: 0..1; what is less sure is unknown: pixels get no label, segments and instances go.
            alpha: in (0, 1], below 1 of a model that ``maft calibrate`` has measured: the bound on the false alarm rate
                of the class docstring. Pixels below the threshold of their word's group are unknown, and so are
                segments and instances of words that no pixel keeps. ``confidence`` is then the calibrated one, which
                ``none_below`` is compared with, too; scores of segments and instances are as ever. 1 changes nothing.
            boxes: (n, 4) x0, y0, x1, y1 in pixels of one picture, each around an object; of a model whose proposer
                takes them, SAM's. Then nothing else is looked for: every box has its instance, in their order and
                however sure its name is, and other pixels have no label.
            points: further objects, each shown by a point (x, y) on it, or by several, a list of (x, y) and (x, y,
                label) with the label 1 on the object and 0 outside it. Their instances follow those of the boxes.

        Returns:
            see `Prediction` for what confidence and scores mean.

        Raises:
            UserError: an image cannot be read or does not fit into the memory, ``none_below`` or ``alpha`` is out of
                range, there is no calibration of this model or it bounds nothing so low, boxes or points lie outside
                the picture, the proposer takes none, or see `vocabulary` and `thing_flags`.
        """
        several = isinstance(image, (list, tuple)) or _is_folder(image)
        if boxes is not None or points is not None:
            if alpha != 1:
                raise UserError(
                    "alpha bounds words that are looked for in a whole picture, and boxes and points show objects that "
                    "are there: leave one of them out."
                )
            check_asked(
                self.model.proposer, averaged=isinstance(self._infer, AveragedInference), several=several, things=things
            )
            words = self.asked(class_names)
            unknown = self.model.clip.unknown_words(words.in_words().names)
            rejection = rejection_of(self, words, none_below, alpha)
            return self._prediction(image, words, None, rejection, unknown, (boxes, points))
        listed: Any = image if several else [image]
        found = self.stream(listed, class_names, things, none_below=none_below, alpha=alpha)
        return list(found) if several else next(found)

    def stream(
        self,
        images: Images,
        class_names: ClassNames | None = None,
        things: Sequence[str] | Literal["all"] | None = None,
        *,
        none_below: float = 0.0,
        alpha: float = 1.0,
    ) -> Iterator[Prediction]:
        """Labels one picture after the other, as they are asked for: of any number, one is in the memory.

        Pictures are not put together in batches, where padding to one size would change what is found in them.

        Args:
            images: a folder, or any iterable of images.
            class_names, things, none_below, alpha: see `__call__`.

        Raises:
            UserError: at once for the words, and for an image when it is its turn.
        """
        words = self.asked(class_names)
        rejection = rejection_of(self, words, none_below, alpha)
        flags = None if things is None else thing_flags(words, things)
        if flags is not None and isinstance(self._infer, AveragedInference):
            raise UserError(
                "Panoptic segments are not averaged: name no things, or set TEST.AUG.ENABLED and "
                "TEST.SLIDING_WINDOW.ENABLED False."
            )
        unknown = self.model.clip.unknown_words(words.in_words().names)
        listed = pictures_in(images) if isinstance(images, (str, os.PathLike)) else images
        # The rows of an array would be read as pictures, the bytes of a file as numbers.
        one = isinstance(listed, (bytes, bytearray)) or getattr(listed, "ndim", 1) in (0, 2, 3)
        if one or not isinstance(listed, Iterable):
            raise UserError(
                f"stream goes through several pictures, not {shown(type(images))}: for one, call the predictor with it."
            )
        return (self._prediction(image, words, flags, rejection, unknown) for image in listed)

    @torch.no_grad()
    def _prediction(
        self,
        image: Any,
        words: Vocabulary,
        things: list[bool] | None,
        rejection: Rejection,
        unknown: tuple[str, ...],
        shown: tuple[ArrayLike | None, Points | None] | None = None,
    ) -> Prediction:
        pixels = pixels_of(image)
        prompts = None if shown is None else prompts_of(*shown, pixels.shape[:2])
        result = self.result(image, pixels, words, things, prompts, rejection.temperature)
        confidence = rejection.confidence(result)
        labels = rejection.apply(result["sem_seg_labels"], confidence)
        known: dict[str, Any] = {
            "image": pixels,
            "labels": labels.cpu().numpy(),
            "confidence": confidence.cpu().numpy(),
            "class_names": words.names,
            "unknown_words": unknown,
            "alpha": rejection.alpha,
        }
        if things is None:
            return Prediction(**known, instances=result.get("objects"))
        # A word that no pixel keeps is answered nowhere.
        answered = None if rejection.calibrated is None else words_in(labels, len(words))
        ids, segments = segments_of(result["panoptic_seg"], words, rejection.none_below, answered)
        return Prediction(
            **known,
            segment_ids=ids,
            segments=segments,
            instances=instances_of(result["instances"], words, rejection.none_below, answered),
        )


def _is_folder(image: object) -> bool:
    return isinstance(image, (str, os.PathLike)) and os.path.isdir(image)
