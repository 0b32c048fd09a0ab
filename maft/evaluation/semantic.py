"""Semantic segmentation: mIoU and its relatives, over all classes and over the seen and unseen ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, TypeVar

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from torch import Tensor

from maft.data.catalog import DatasetRow, class_names, vocabulary
from maft.data.mappers import check_labels
from maft.data.pairs import PAIRS_PREFIX
from maft.data.reading import Record, read_labels
from maft.errors import UserError
from maft.evaluation.confusion import ConfusionMatrix, SemanticScores, harmonic_mean, sum_over_processes
from maft.evaluation.image_rows import ImageRows
from maft.structures import Vocabulary

E = TypeVar("E", bound="SemanticEvaluator")

# Of each image, the cells of its confusion matrix that are not zero.
_COLUMNS = {"predicted": torch.int32, "true": torch.int32, "count": torch.int32}


def seen_classes(cfg: CfgNode, row: DatasetRow) -> tuple[bool, ...] | None:
    """What a report counts as seen: the published split, and where there is none, what ``overlap`` finds."""
    return _all_words(cfg, row.name).seen if row.seen is None else row.seen


def test_vocabulary(cfg: CfgNode, row: DatasetRow, name: str) -> tuple[Vocabulary, tuple[bool, ...]]:
    """What is offered to the model on a dataset, and which of it are things."""
    words, counted = _all_words(cfg, name), seen_classes(cfg, row)
    if cfg.TEST.PROTOCOL != "unseen_only" or counted is None or all(counted):
        return words, row.things
    unseen = [not seen for seen in counted]
    flags = None if words.seen is None else tuple(compress(words.seen, unseen))
    return Vocabulary(tuple(compress(words.names, unseen)), flags), tuple(compress(row.things, unseen))


def _all_words(cfg: CfgNode, name: str) -> Vocabulary:
    options = cfg.MODEL.VOCABULARY
    training = cfg.DATASETS.TRAIN
    if options.SEEN == "overlap" and training and training[0].startswith(PAIRS_PREFIX):
        raise UserError(
            "MODEL.VOCABULARY.SEEN overlap needs the classes of a training set, and pairs have none: set split."
        )
    return vocabulary(
        name,
        options.CLASS_NAMES,
        options.SEEN,
        class_names(training[0], options.CLASS_NAMES) if options.SEEN == "overlap" and training else None,
    )


def predicted_labels(output: dict[str, Any], classes: int) -> Tensor:
    """(H, W) label map of a model output: its ``"sem_seg_labels"``, or the best of its ``"sem_seg"`` scores.

    Raises:
        UserError: there are scores of another number of classes.
    """
    if "sem_seg_labels" in output:
        return output["sem_seg_labels"]
    scores = output["sem_seg"]
    if scores.shape[0] != classes:
        raise UserError(
            f"The model scores {scores.shape[0]} classes, but the dataset has {classes}: give the vocabulary of the "
            "dataset."
        )
    return scores.argmax(dim=0)


class SemanticEvaluator(DatasetEvaluator):
    """Accumulates a confusion matrix on the model's device; class scores of an image are dropped at once.

    Args:
        class_names: of the dataset, in label order.
        ignore_label: value of unlabelled pixels in the label maps.
        seen: whether each class belongs to the training vocabulary; all or None where there is no such split.
        things: whether each class is countable; all, none or None where that makes no difference.
        protocol: ``"generalized"``: all classes compete and all are measured. ``"unseen_only"``: only the unseen
            classes are offered to the model (predictions index them, in label order), and only their pixels count.
        images: file names of all images; with them the counts of each image are kept in ``rows``, too.

    Attributes:
        confusion: of all images of this process.
        rows: columns ``predicted``, ``true`` and ``count``, the cells of each image's `ConfusionMatrix` that are not
            zero; their sum over the images is ``confusion``.
        task: what the results stand under.

    Raises:
        UserError: the protocol needs a split that the dataset does not have.
    """

    task = "sem_seg"

    def __init__(
        self,
        class_names: Sequence[str],
        ignore_label: int,
        *,
        seen: Sequence[bool] | None = None,
        things: Sequence[bool] | None = None,
        protocol: str = "generalized",
        images: Sequence[str] = (),
    ) -> None:
        self.seen = None if seen is None or all(seen) else np.array(seen, dtype=bool)
        if protocol == "unseen_only" and self.seen is None:
            raise UserError("TEST.PROTOCOL is 'unseen_only', but the dataset has no unseen classes: use 'generalized'.")
        self.things = None if things is None or len(set(things)) < 2 else np.array(things, dtype=bool)
        self.class_names = tuple(class_names)
        self.ignore_label = ignore_label
        self.protocol = protocol
        offered = [i for i in range(len(class_names)) if protocol == "generalized" or not (seen and seen[i])]
        # Predictions and labels both become positions among the offered classes; -1 is nothing or ignored, and the last
        # entry of the table keeps it so.
        self.offered = torch.tensor(offered)
        self._position = torch.full((len(class_names) + 1,), -1)
        self._position[self.offered] = torch.arange(len(offered))
        self.rows = ImageRows(_COLUMNS, images)
        self.reset()

    @classmethod
    def of_dataset(cls: type[E], cfg: CfgNode, row: DatasetRow, **options: Any) -> E:
        """The evaluator of a dataset of the catalogue; ``options`` are ``images`` and those of a subclass."""
        return cls(
            class_names(row.name),
            row.ignore_label,
            seen=seen_classes(cfg, row),
            things=row.things,
            protocol=cfg.TEST.PROTOCOL,
            **options,
        )

    def reset(self) -> None:
        self.confusion = ConfusionMatrix(len(self.offered))
        self.rows.reset()

    def process(self, records: list[Record], outputs: list[dict[str, Any]]) -> None:
        """Counts a batch.

        Args:
            records: with ``"sem_seg_file_name"``.
            outputs: dicts with ``"sem_seg_labels"`` (H, W) integers, or ``"sem_seg"`` (K, H, W) scores.
        """
        for record, output in zip(records, outputs, strict=True):
            truth, path = self.truth(record), record["sem_seg_file_name"]
            self.add(predicted_labels(output, len(self.offered)), truth, path, record.get("file_name", ""))

    def truth(self, record: Record) -> Tensor:
        """(H, W) int32 checked label map of a record."""
        path = record["sem_seg_file_name"]
        labels = read_labels(path)
        check_labels(labels, len(self.class_names), self.ignore_label, path)
        return torch.from_numpy(labels)

    def positions(self, labels: Tensor) -> Tensor:
        """Classes of the dataset as positions among the offered ones, -1 for ignored pixels and other classes."""
        truth = torch.where(labels == self.ignore_label, -1, labels)
        return self._position.to(truth.device)[truth.long()] if self.protocol == "unseen_only" else truth

    def add(self, prediction: Tensor, labels: Tensor, name: str = "a label map", image: str = "") -> None:
        """Counts one image.

        Args:
            prediction: (H, W) integers, positions among the offered classes; others mean "nothing".
            labels: (H, W) integers, classes of the dataset or the ignore label, on any device.
            name: of the labels, for messages.
            image: file name of the image, one of ``images`` where these are given.
        """
        if prediction.shape != labels.shape:
            predicted, true = ("x".join(map(str, reversed(size.shape))) for size in (prediction, labels))
            raise UserError(f"The prediction is {predicted}, but label map {name} is {true}: image and labels differ.")
        counts = self.confusion.update(prediction, self.positions(labels.to(prediction.device)))
        if self.rows.images:
            rows, columns = counts.nonzero().unbind(1)
            self.rows.add(image, predicted=rows, true=columns, count=counts[rows, columns])

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Percentages under ``"sem_seg"``, the same in every process; has to be called by all of them.

        ``mIoU`` averages over the classes in the ground truth, ``mIoU_or_predicted`` over those in ground truth or
        prediction, ``mIoU_of_all`` over all; with a split also ``seen_``, ``unseen_`` and ``harmonic_`` versions of
        these and of accuracy, and with things and stuff the ``unseen_`` ones of each, ``_th`` and ``_st``.
        """
        scores = SemanticScores.of(sum_over_processes(self.confusion.counts))
        results = {**self.by_split(scores, SemanticScores.means), "fwIoU": scores.frequency_weighted_iou()}
        for place, index in enumerate(self.offered.tolist()):
            results[f"IoU-{self.class_names[index]}"] = float(scores.iou[place])
            results[f"ACC-{self.class_names[index]}"] = float(scores.accuracy[place])
        return {self.task: {name: 100 * value for name, value in results.items()}}

    def by_split(self, scores: SemanticScores, means: Callable[[SemanticScores], dict[str, float]]) -> dict[str, float]:
        """``means`` over all classes, and where there is a split also over its parts, as `evaluate` documents them."""
        results = means(scores)
        if self.seen is None or self.protocol != "generalized":
            return results
        seen, unseen = means(scores.only(self.seen)), means(scores.only(~self.seen))
        for name, value in seen.items():
            results |= {f"seen_{name}": value, f"unseen_{name}": unseen[name]}
            results[f"harmonic_{name}"] = harmonic_mean(value, unseen[name])
        for suffix, part in (("_th", self.things), ("_st", None if self.things is None else ~self.things)):
            if part is not None:
                of_part = means(scores.only(~self.seen & part))
                results |= {f"unseen_{name}{suffix}": value for name, value in of_part.items()}
        return results

    def state(self) -> dict[str, Tensor]:
        """What this process has counted so far."""
        return {"confusion": self.confusion.counts.cpu(), **self.rows.state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continues from the `state` of an earlier run."""
        self.confusion.counts = state["confusion"].clone()
        self.rows.load_state(state)
