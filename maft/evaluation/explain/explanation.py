"""What an explanation of an evaluation holds, and the files it is kept in.

``explanation.json`` is an `Explanation` field by field, where what is undefined (NaN) is null:

- ``facts``: what was explained: "dataset", "protocol", "images" (their number) and what else the caller knows;
- ``total``, ``groups``, ``classes`` and ``images``: the loss and its five parts in all, over seen and unseen classes,
  by class and by image;
- ``mask_recall``, ``name_ranks``, ``confusions``, ``similarity``, ``calibration``, ``mask_accuracy``: statistics of
  masks and names;
- ``worst_masks``: what cost the most pixels, worst first.

Numbers called percentages are in 0..100, shares, scores and cosines are fractions.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from maft.files import write_json_atomic, write_text_atomic

VERSION = 1


@dataclass(frozen=True)
class Parts:
    """A loss of IoU in percentage points, and what causes it: the five parts add up to the loss.

    A part below zero is honest: a stage that is put right may uncover a fault of another one. What a good ensemble
    gains is no part of its own, it makes that of the names smaller.

    Attributes:
        loss: 100 - IoU, of one class, or the mean over classes.
        masks: no good mask shows the pixels. A large mask over others is shared with fusion, as either would mend it.
        names: the right masks have wrong names.
        ensemble: joining the scores of proposer and classifier makes right names wrong.
        fusion: of overlapping masks, a wrong one wins.
        void: right masks are taken for no object.
    """

    loss: float
    masks: float
    names: float
    ensemble: float
    fusion: float
    void: float


@dataclass(frozen=True)
class ClassLoss:
    """One class: its name, whether it counts as seen (None without a split), true pixels, and the parts.

    ``parts`` is None where no pixel of the dataset is of the class.
    """

    name: str
    seen: bool | None
    pixels: int
    parts: Parts | None


@dataclass(frozen=True)
class ImageLoss:
    """One image: its file, and the parts of 100 - mIoU over the classes it shows; None where nothing is labelled."""

    file: str
    parts: Parts | None


@dataclass(frozen=True)
class MaskRecall:
    """How many true masks are found by some proposal.

    Attributes:
        kind: what a true mask is: "class region" (all pixels of a class in an image), "connected component" of one, or
            "panoptic segment".
        count: true masks.
        thresholds: of the IoU of a true mask with its best proposal (values >= 0.5).
        recall: share of the true masks with at least that IoU, one for each threshold.
        by_class: class name -> the same over its masks; classes without one are missing.
        counts: class name -> its masks.
    """

    kind: str
    count: int
    thresholds: tuple[float, ...]
    recall: tuple[float, ...]
    by_class: dict[str, tuple[float, ...]]
    counts: dict[str, int]


@dataclass(frozen=True)
class NameRanks:
    """At which place the true name of right masks stands, 1 the best: ``masks[r - 1]`` masks, ``pixels[r - 1]`` pixels.

    A right mask is one of whose labelled pixels at least half are of one class. Its names are those of the classifier,
    or of the proposer where there is none.
    """

    masks: tuple[int, ...]
    pixels: tuple[int, ...]


@dataclass(frozen=True)
class Confusion:
    """Right masks of class ``true`` whose own name (see `NameRanks`) is ``named``.

    Attributes:
        pixels: of the class under such masks, of each mask.
        share: of all pixels of the class under right masks, in 0..1.
        similarity: cosine of the texts of both, the largest over their texts; None where texts were not given.
        relation: what ``named`` is to ``true`` by its name, see `maft.evaluation.explain.relations`.
    """

    true: str
    named: str
    pixels: int
    share: float
    similarity: float | None
    relation: str


@dataclass(frozen=True)
class SimilarityBin:
    """Pairs (true, other) of classes whose texts have a cosine from ``low`` up to ``high``.

    Attributes:
        pairs: their number, of true classes that right masks show.
        rate: the mean over them of the share of the true class' pixels under right masks that is named as the other.
    """

    low: float
    high: float
    pairs: int
    rate: float


@dataclass(frozen=True)
class ReliabilityBin:
    """Labelled pixels whose confidence lies from ``low`` up to ``high``: mean confidence, and share labelled right."""

    low: float
    high: float
    pixels: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Confidence of the labels of pixels (see `maft.inference.labels_of_scores`) against how often they are right.

    Attributes:
        bins: of equal width, from 0 to 1; those without a pixel have NaN.
        error: expected calibration error, the mean of |confidence - accuracy| over bins weighted by pixels, in 0..1.
    """

    bins: tuple[ReliabilityBin, ...]
    error: float


@dataclass(frozen=True)
class MaskAccuracy:
    """How often the classifier alone names true masks right, as ``TEST.MASK_ACCURACY`` measures it.

    Attributes:
        mean: over the classes that occur, in percent (mMaskAcc).
        total: over all true masks, in percent (MaskAcc).
        by_class: class name -> percentage; classes that do not occur are missing.
    """

    mean: float
    total: float
    by_class: dict[str, float]


@dataclass(frozen=True)
class WorstMask:
    """Wrongly labelled pixels of one class in one image that have the same cause, and the mask that shows them best.

    Attributes:
        file: of the image.
        cause: "masks": there is no right mask; "names": none has a right name of its own; "ensemble": none keeps it;
            "void": none is taken for an object; "fusion": one is, and a wrong one wins. It serves pictures: the parts
            of the loss are counted otherwise.
        true: the class of the pixels.
        predicted: what most of them are labelled; None is nothing.
        pixels: how many.
        lost: these pixels as run lengths of pycocotools: ``size`` [H, W] and ``counts``, a text.
        mask: the right mask that shows the most of them, cut at 0.5, in the same way; None for the cause "masks".
        named: final name of that mask; None is no object.
        scores: that mask's class probabilities by name, the best five and the true one: "classifier", "proposer"
            and "final"; those that do not exist are missing.
    """

    file: str
    cause: str
    true: str
    predicted: str | None
    pixels: int
    lost: dict[str, Any]
    mask: dict[str, Any] | None
    named: str | None
    scores: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Explanation:
    """Everything there is to say of a score; see the module for its JSON.

    Attributes:
        facts: JSON-like.
        miou: percentage, that of the evaluation.
        total: parts of 100 - mIoU.
        groups: the same over the "seen" and the "unseen" classes; empty without a split.
        mask_accuracy: None where the true masks were not named.
    """

    facts: dict[str, Any]
    miou: float
    total: Parts
    groups: dict[str, Parts]
    classes: tuple[ClassLoss, ...]
    images: tuple[ImageLoss, ...]
    mask_recall: tuple[MaskRecall, ...]
    name_ranks: NameRanks
    confusions: tuple[Confusion, ...]
    similarity: tuple[SimilarityBin, ...]
    calibration: Calibration
    mask_accuracy: MaskAccuracy | None
    worst_masks: tuple[WorstMask, ...]

    def to_json(self) -> dict[str, Any]:
        """The value of ``explanation.json``."""
        return {"version": VERSION, **_plain(asdict(self))}

    def write(self, folder: Path) -> None:
        """Writes ``explanation.json``, ``explanation_classes.csv``, ``explanation_images.csv`` and
        ``explanation_confusions.csv`` into a folder, each whole or not at all."""
        columns = [field.name for field in fields(Parts)]
        write_json_atomic(folder / "explanation.json", self.to_json())
        write_text_atomic(
            folder / "explanation_classes.csv",
            _table(
                ["name", "seen", "pixels", *columns],
                (
                    [one.name, "" if one.seen is None else int(one.seen), one.pixels, *_numbers(one.parts)]
                    for one in self.classes
                ),
            ),
        )
        write_text_atomic(
            folder / "explanation_images.csv",
            _table(["file", *columns], ([one.file, *_numbers(one.parts)] for one in self.images)),
        )
        write_text_atomic(
            folder / "explanation_confusions.csv",
            _table(
                [field.name for field in fields(Confusion)],
                ([*asdict(one).values()] for one in self.confusions),
            ),
        )


def _numbers(parts: Parts | None) -> list[float | str]:
    return [""] * len(fields(Parts)) if parts is None else list(asdict(parts).values())


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    """The same with null for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
