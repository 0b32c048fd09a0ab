"""Images and class names in, what was found out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import ArrayLike

from maft.data.pixels import ImageLike, pictures_in, pixels_of
from maft.errors import UserError, first_line, shown
from maft.predictor.loaded import LoadedModel
from maft.predictor.merging import merged
from maft.predictor.objects import instances_of, segments_of, shown_objects
from maft.predictor.prediction import Prediction
from maft.predictor.prompts import Points, check_asked, prompts_of
from maft.predictor.words import ClassNames, thing_flags, vocabulary_of
from maft.structures import Prompts, Proposals, Vocabulary
from maft.test_time import AveragedInference

Images = Iterable[ImageLike] | str | os.PathLike


class Predictor(LoadedModel):
    """A trained model that labels pictures with any words.

    A predictor keeps nothing of a call: its answer depends on the picture and the words alone, to the last bit, and
    several threads may share it.

    ```python
    from maft.predictor import Predictor

    predictor = Predictor.from_pretrained("miniature")
    prediction = predictor("scene.png", ["bear", "tree", "sky"], things=["bear"])
    print(prediction.summary())
    ```

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
        return self.model.clip.unknown_words(self.vocabulary(class_names).names)

    @torch.no_grad()
    def prepare(self, class_names: ClassNames | None = None) -> Vocabulary:
        """Encodes the user's words, which calls with the same words then find ready.

        Raises:
            UserError: see `vocabulary`; a word is too long for CLIP, or the folder of kept embeddings is unwritable.
        """
        words = self.vocabulary(class_names)
        self.model.vocabulary_encoder(words, self.model.clip)
        if (of_regions := self.model.classifier_vocabulary_encoder) is not None:
            of_regions(words, self.model.clip)
        return words

    @overload
    def __call__(
        self,
        image: list[ImageLike] | tuple[ImageLike, ...],
        class_names: ClassNames | None = None,
        things: Sequence[str] | Literal["all"] | None = None,
        *,
        none_below: float = 0.0,
    ) -> list[Prediction]: ...

    @overload
    def __call__(
        self,
        image: ImageLike,
        class_names: ClassNames | None = None,
        things: Sequence[str] | Literal["all"] | None = None,
        *,
        none_below: float = 0.0,
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
            none_below: 0..1; what is less sure is "none of these": pixels get no label, segments and instances go.
            boxes: (n, 4) x0, y0, x1, y1 in pixels of one picture, each around an object; of a model whose proposer
                takes them, SAM's. Then nothing else is looked for: every box has its instance, in their order and
                however sure its name is, and other pixels have no label.
            points: further objects, each shown by a point (x, y) on it, or by several, a list of (x, y) and (x, y,
                label) with the label 1 on the object and 0 outside it. Their instances follow those of the boxes.

        Returns:
            see `Prediction` for what confidence and scores mean.

        Raises:
            UserError: an image cannot be read or does not fit into the memory, ``none_below`` is out of range, boxes
                or points lie outside the picture, the proposer takes none, or see `vocabulary` and `thing_flags`.
        """
        several = isinstance(image, (list, tuple)) or _is_folder(image)
        if boxes is not None or points is not None:
            check_asked(
                self.model.proposer, averaged=isinstance(self._infer, AveragedInference), several=several, things=things
            )
            words = self.vocabulary(class_names)
            unknown = self.model.clip.unknown_words(words.names)
            return self._prediction(image, words, None, _share(none_below), unknown, (boxes, points))
        listed: Any = image if several else [image]
        found = self.stream(listed, class_names, things, none_below=none_below)
        return list(found) if several else next(found)

    def stream(
        self,
        images: Images,
        class_names: ClassNames | None = None,
        things: Sequence[str] | Literal["all"] | None = None,
        *,
        none_below: float = 0.0,
    ) -> Iterator[Prediction]:
        """Labels one picture after the other, as they are asked for: of any number, one is in the memory.

        Pictures are not put together in batches, where padding to one size would change what is found in them.

        Args:
            images: a folder, or any iterable of images.
            class_names, things, none_below: see `__call__`.

        Raises:
            UserError: at once for the words, and for an image when it is its turn.
        """
        none_below = _share(none_below)
        words = self.vocabulary(class_names)
        flags = None if things is None else thing_flags(words, things)
        if flags is not None and isinstance(self._infer, AveragedInference):
            raise UserError(
                "Panoptic segments are not averaged: name no things, or set TEST.AUG.ENABLED and "
                "TEST.SLIDING_WINDOW.ENABLED False."
            )
        unknown = self.model.clip.unknown_words(words.names)
        listed = pictures_in(images) if isinstance(images, (str, os.PathLike)) else images
        # The rows of an array would be read as pictures, the bytes of a file as numbers.
        one = isinstance(listed, (bytes, bytearray)) or getattr(listed, "ndim", 1) in (0, 2, 3)
        if one or not isinstance(listed, Iterable):
            raise UserError(
                f"stream goes through several pictures, not {shown(type(images))}: for one, call the predictor with it."
            )
        return (self._prediction(image, words, flags, none_below, unknown) for image in listed)

    @torch.no_grad()
    def _prediction(
        self,
        image: Any,
        words: Vocabulary,
        things: list[bool] | None,
        none_below: float,
        unknown: tuple[str, ...],
        shown: tuple[ArrayLike | None, Points | None] | None = None,
    ) -> Prediction:
        pixels = pixels_of(image)
        prompts = None if shown is None else prompts_of(*shown, pixels.shape[:2])
        result = self._result(image, pixels, words, things, prompts)
        labels, confidence = result["sem_seg_labels"], result["sem_seg_confidence"]
        labels = labels.masked_fill(confidence < none_below, -1)
        of_pixels = {"image": pixels, "labels": labels.cpu().numpy(), "confidence": confidence.cpu().numpy()}
        if things is None:
            objects = result.get("objects")
            return Prediction(**of_pixels, class_names=words.names, instances=objects, unknown_words=unknown)
        ids, segments = segments_of(result["panoptic_seg"], words, none_below)
        return Prediction(
            **of_pixels,
            class_names=words.names,
            segment_ids=ids,
            segments=segments,
            instances=instances_of(result["instances"], words, none_below),
            unknown_words=unknown,
        )

    def _result(
        self,
        image: ImageLike,
        pixels: np.ndarray,
        words: Vocabulary,
        things: list[bool] | None,
        prompts: Prompts | None,
    ) -> dict[str, Any]:
        record = self._record(image, pixels, prompts)
        try:
            with self._autocast():
                return self._computed(record, words, things)
        except (MemoryError, RuntimeError) as error:
            if "memory" not in str(error) and not isinstance(error, MemoryError):
                raise
            raise UserError(
                f"A picture of {pixels.shape[1]}x{pixels.shape[0]} pixels and {len(words)} words does not fit into the "
                f"memory ({first_line(error)[:120]}): make it smaller{'' if things is None else ', or name no things'}."
            ) from error

    def _computed(self, record: dict[str, Any], words: Vocabulary, things: list[bool] | None) -> dict[str, Any]:
        model = self._infer
        if isinstance(model, AveragedInference):
            return model.predict([record], words)[0]
        images = model.padded([record])
        proposals = model.propose(images, [record], words)
        classification = model.classify(images, proposals, words)

        def combined(proposals: Proposals, **options: bool) -> dict[str, Any]:
            changed = {**model.inference_options, **options}
            return model.combine(images, proposals, classification, [record], words, things, changed)[0]

        # Labels are the same whether things are named or not.
        result = combined(proposals)
        if "prompts" in record:
            probabilities = model.class_probabilities(proposals, classification, words)[0]
            size = record["height"], record["width"]
            return {**result, "objects": shown_objects(proposals, probabilities, images, size, words)}
        if things is None:
            return result
        if self._of_objects:
            return result | combined(proposals, semantic=False, panoptic=True, instance=True)
        probabilities = model.class_probabilities(proposals, classification, words)[0]
        segments, objects = merged(proposals, probabilities, torch.tensor(things, device=model.device))
        result |= combined(segments, semantic=False, panoptic=True)
        return result | combined(objects, semantic=False, instance=True)


def _share(none_below: Any) -> float:
    if isinstance(none_below, bool) or not isinstance(none_below, Real) or not 0 <= float(none_below) <= 1:
        raise UserError(f"none_below is {shown(none_below)}: give a number from 0 to 1.")
    return float(none_below)


def _is_folder(image: object) -> bool:
    return isinstance(image, (str, os.PathLike)) and os.path.isdir(image)
