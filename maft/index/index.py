"""An index that is asked: labels, areas and masks of everything that was seen, with any words."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from maft.config import load_config
from maft.data.label_sets import overlap
from maft.errors import UserError, closest, shown
from maft.exports.coco import encoded_masks
from maft.index.format import ImageEntry
from maft.index.questions import Question
from maft.index.ranking import FoundMask, best_first, candidates, check_asked, different_objects
from maft.index.reading import StoredIndex
from maft.index.rows import MaskRows, outlines
from maft.index.scoring import on_device, question_scores
from maft.index.search import Engine, nearest
from maft.index.words import asking_model
from maft.inference import label_options
from maft.layers.devices import device_of
from maft.structures import Classification, Images, Proposals, Vocabulary

Words = Vocabulary | Sequence[str]

logger = logging.getLogger(__name__)


class Index:
    """What a model saw of a collection of images, asked with any words.

    ```python
    from maft.index import Index

    index = Index("photos.index")
    labels = index.labels(0, ["bear", "tree", "sky"])
    for mask in index.ask(["bear"], not_words=["dog"], top=5):
        print(mask.file, mask.score, mask.box)
    ```

    No image and no image tower is needed. Words are a `Vocabulary`, or a list of names, in each of which commas
    separate synonyms.

    Args:
        path: folder that ``maft index`` wrote.
        device: where words are encoded and compared.

    Attributes:
        stored: the files.
        rows: the masks of all images.
        cfg: config of the model.
        model: see `maft.index.words.asking_model`.
        training: the training vocabulary of the model, None where it has none.

    Raises:
        UserError: there is no index, it is not whole, damaged or of another version, its model cannot be built, or
            the device is not there.
    """

    def __init__(self, path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> None:
        self.stored = StoredIndex(path)
        cfg = load_config(self.stored.config_file, ["MODEL.DEVICE", str(device_of(device))], trusted=False)
        tensors = {name: tensor.to(device) for name, tensor in self.stored.weights().items()}
        self.model = asking_model(cfg, tensors, str(Path(path) / "model"), proposer=self.stored.has_queries)
        self.cfg = cfg
        self.training = self.model.vocabulary if cfg.DATASETS.TRAIN else None
        self.rows = MaskRows(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Path of each image, as it was indexed."""
        return tuple(entry.file for shard in self.stored.shards() for entry in shard.header.images)

    def entry(self, image: int) -> ImageEntry:
        """What the index says of an image besides its masks."""
        number, place = self.stored.place(image)
        return self.stored.shard(number).header.images[place]

    def vocabulary(self, words: Words) -> Vocabulary:
        """Words as a vocabulary, each seen or unseen in training.

        Raises:
            UserError: there are none, they are no texts, two of them are alike for CLIP, the masks of the index
                depend on other words, or its model has not looked at their examples.
        """
        vocabulary, bound = self._named(words), self.stored.settings.words
        if self.stored.contents.bound and vocabulary.names != bound:
            raise UserError(
                f"The masks of the index {self.stored.folder} depend on the words that it was made with: ask it with "
                f"{', '.join(bound[:5])}{', ...' if len(bound) > 5 else ''} in this order, or index the images with "
                "yours."
            )
        self._tell_of_other_words(vocabulary)
        return vocabulary

    def _named(self, words: Words) -> Vocabulary:
        if isinstance(words, str):
            raise UserError(f"Words are a list of texts, not {shown(words)}: write [{shown(words)}].")
        vocabulary = words if isinstance(words, Vocabulary) else Vocabulary(tuple(words))
        if vocabulary.seen is None:
            seen = overlap(vocabulary.names, self.training.names if self.training else ())
            vocabulary = replace(vocabulary, seen=seen)
        return vocabulary.seen_by(self.stored.settings.model)

    def _tell_of_other_words(self, words: Vocabulary) -> None:
        found_with = self.stored.settings.words
        if found_with and words.names != found_with:
            logger.warning(
                "The masks of the index were found with %s%s: with other words the model might find others.",
                ", ".join(found_with[:5]),
                ", ..." if len(found_with) > 5 else "",
            )

    def labels(self, image: int, words: Words) -> Tensor:
        """(H, W) int64 indices into the words, -1 where no mask says anything: those of the model, to the last bit."""
        return self.result(image, words)["sem_seg_labels"]

    def result(
        self,
        image: int,
        words: Words,
        things: Sequence[bool] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What the model would have said of an image, see `OpenVocabSegmentor.forward`.

        Args:
            image: its number in the index.
            words: C names.
            things: (C) flags, which panoptic and instance results need.
            options: change single ones of the model's ``MODEL.INFERENCE``, in lower case; by default only labels
                are made, as a `Predictor` without things makes them.

        Raises:
            UserError: see `vocabulary`; there is no such image or option; the shard of the image is missing or damaged.
        """
        vocabulary = self.vocabulary(words)
        for name in options or {}:
            if name not in self.model.inference_options:
                raise UserError(
                    f"There is no option {shown(name)} of results.{closest(name, self.model.inference_options)}"
                )
        images, proposals, named, record = self.said(image, vocabulary)
        changed = {**label_options(self.model.inference_options), **(options or {})}
        return self.model.combine(images, proposals, named, [record], vocabulary, things, changed)[0]

    @torch.no_grad()
    def said(
        self, image: int, vocabulary: Vocabulary
    ) -> tuple[Images, Proposals, Classification | None, dict[str, Any]]:
        """What `OpenVocabSegmentor.combine` takes of an image; the pixels of the batch have no memory."""
        seen = on_device(self.stored.image(image), self.model.device)
        images = Images(torch.empty(1, 3, *seen.proposals.padded_size, device="meta"), [seen.size])
        named = None if seen.embedded is None else self.model.named(seen.embedded, vocabulary)
        height, width = seen.output_size
        record = {"height": height, "width": width, "file_name": seen.file}
        return images, self.model.scored(seen.proposals, vocabulary), named, record

    def areas(self, words: Words) -> NDArray[np.int64]:
        """(images, C + 1) pixels of each image that have each label, those without one last; takes all images' labels.

        Divided by its sum, a row holds shares of its image.
        """
        vocabulary = self.vocabulary(words)
        found = np.zeros((len(self), len(vocabulary) + 1), np.int64)
        for image, counts in enumerate(found):
            # A label of -1 counts in the last place.
            labels = self.labels(image, vocabulary) % len(counts)
            counts[:] = torch.bincount(labels.flatten(), minlength=len(counts)).cpu()
        return found

    def masks(self, image: int) -> list[dict[str, Any]]:
        """All masks of an image as run lengths at its size, see `maft.exports.coco.encoded_masks`."""
        return encoded_masks(outlines(self.stored.image(image)).numpy())

    def ask(
        self,
        words: Words,
        not_words: Words = (),
        *,
        top: int = 20,
        beside: Words | None = None,
        engine: Engine = "exact",
    ) -> list[FoundMask]:
        """The masks of all images that show any of the words, best first.

        The words compete with each other, with those of ``not_words`` and with those ``beside`` them: the joint
        probabilities p of all of them are those that labels are made of, the ensemble and what the proposer leaves to
        "no object" included. The score of a mask is the sum of p over ``words``. A mask of which one of ``not_words``
        is likelier than each of ``words`` is left out, and so is one that shows the object of a better one of its
        image (`maft.index.ranking.different_objects`).

        Args:
            words: what is asked for.
            not_words: what it is easily taken for.
            top: how many masks at most.
            beside: what else there is, which lowers scores and leaves nothing out; None: the training vocabulary of
                the model without classes that share a synonym with the words. An index that knows no words but those
                of its making has all of these beside.
            engine: "exact" compares all masks, "faiss" those that the vector index finds nearest to the words.

        Raises:
            UserError: there is no word, one is on both sides or alone, ``top`` is less than 1, or see `vocabulary`
                and `maft.index.search.nearest`.
        """
        check_asked(top, engine)
        question = self.question(words, not_words, beside)
        rows = None
        if engine == "faiss":
            rows = nearest(self.stored, self._looked_for(question), candidates(top))
        scores, best = question_scores(self.model, self.rows, question, rows)
        names = [question.vocabulary.names[column] for column in question.asked]
        ranked = self._different(scores, best)
        return self._found(((row, names[int(best[row])], float(scores[row])) for row in ranked), top)

    def nearest(self, mask: tuple[int, int] | Tensor, *, top: int = 20, engine: Engine = "exact") -> list[FoundMask]:
        """The masks of all images that are most like one, by the cosine of their embeddings, each object once.

        Args:
            mask: image and number of a mask, whose object is not among the answers; or an embedding (D,).
            top: how many masks at most.
            engine: "exact" compares all masks, "faiss" those that the vector index finds.

        Raises:
            UserError: there is no such mask, it shows nothing, the embedding is of another form, the index has no
                embeddings, or see `maft.index.search.nearest`.
        """
        check_asked(top, engine)
        query, given = self.rows.query(mask)
        rows = nearest(self.stored, query, candidates(top)) if engine == "faiss" else None
        scores = self.rows.cosines(query, rows)
        if given is not None:
            # Before all others, it keeps them from showing its object again.
            scores[given] = torch.inf
        no_words = torch.zeros_like(scores, dtype=torch.int64)
        ranked = self._different(scores, no_words)
        return self._found(((row, "", float(scores[row])) for row in ranked if row != given), top)

    def question(self, words: Words, not_words: Words = (), beside: Words | None = None) -> Question:
        """Words and what they compete with, see `ask`."""
        asked = self._named(words)
        against = self._named(not_words) if len(not_words) else None
        if self.stored.contents.bound:
            return Question.among(asked, against, self._named(self.stored.settings.words))
        self._tell_of_other_words(asked)
        others = self.training if beside is None else self._named(beside) if len(beside) else None
        return Question.of(asked, against, others)

    @torch.no_grad()
    def prepare(self, words: Words) -> Vocabulary:
        """Encodes words, which questions with the same words then find ready.

        Raises:
            UserError: a word is too long for the text tower, or see `vocabulary`.
        """
        vocabulary = self._named(words)
        self.model.vocabulary_encoder(vocabulary.in_words(), self.model.clip)
        self.model.classifier_text(vocabulary)
        return vocabulary

    @torch.no_grad()
    def _looked_for(self, question: Question) -> Tensor:
        """(n, D) embeddings of the texts and of the examples of the words that are asked for."""
        vocabulary = question.vocabulary
        text = self.model.classifier_text(vocabulary)
        in_words = torch.tensor([place for place in range(len(vocabulary)) if vocabulary.has_words(place)])
        asked = torch.isin(in_words[text.row_class.cpu()], torch.tensor(question.asked))
        width = text.embeddings.shape[-1]
        shown = [look.embeddings[:1] for place in question.asked for look in vocabulary.looks(place, width)]
        return torch.cat([text.embeddings.cpu()[asked], *shown])

    def _different(self, scores: Tensor, words: Tensor) -> Iterator[int]:
        def of(row: int) -> tuple[int, int]:
            return self.rows.image(row)[0], int(words[row])

        return different_objects(best_first(scores), of, self.rows.runs)

    def _found(self, ranked: Iterable[tuple[int, str, float]], top: int) -> list[FoundMask]:
        """The first masks as they are shown, given rows, words and scores."""
        # The masks of an image are decoded once.
        codes: dict[int, list[dict[str, Any]]] = {}

        def with_pixels() -> Iterator[FoundMask]:
            for row, word, score in ranked:
                image, number = self.rows.image(row)
                if image not in codes:
                    codes[image] = self.masks(image)
                code = codes[image][number]
                # A mask may have an inside where it was proposed, and none at the pixels of its image.
                if area := int(coco_mask.area(code)):
                    x0, y0, width, height = map(int, coco_mask.toBbox(code))
                    box = (x0, y0, x0 + width, y0 + height)
                    yield FoundMask(image, self.entry(image).file, number, word, score, area, box, code)

        return list(islice(with_pixels(), top))
