"""Calibrates a predictor on held-out pictures, see `maft.calibration`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import maft
from maft.calibration import GROUPS, Calibration
from maft.checkpoint.fingerprint import fingerprint
from maft.confidence import CalibratedConfidence
from maft.data.catalog import class_names, dataset
from maft.data.mappers import check_labels
from maft.data.pairs import PAIRS_PREFIX
from maft.data.pixels import ImageLike, pixels_of
from maft.data.reading import Record, read_labels
from maft.data.records import load_records
from maft.downloads import cache_folder
from maft.errors import UserError, shown
from maft.evaluation.calibrate import (
    GroupMeasured,
    Observed,
    calibration_error,
    cross_calibrated,
    grid,
    measured,
    risk_curves,
)
from maft.evaluation.calibrate_confidence import Judged, Sample, fit_confidence, fit_temperature
from maft.predictor.predictor import Predictor
from maft.structures import Vocabulary

# An image and its (H, W) label map, -1 where nothing is annotated.
Annotated = tuple[ImageLike, NDArray[np.integer]]

# The temperature is fitted to every fourth picture, so that thresholds come from pictures that it does not know.
_FOURTH = 4


@dataclass(frozen=True)
class Held:
    """Held-out pictures of a dataset.

    Args:
        name: of the dataset.
        records: its images.
    """

    name: str
    records: Sequence[Record]

    def annotated(self, records: Sequence[Record]) -> Iterable[Annotated]:
        """Images, by their paths, and label maps of some records, as they are asked for."""
        row = dataset(self.name)
        for record in tqdm(records, desc=f"looking at {self.name}", unit="image", disable=None):
            path = record["sem_seg_file_name"]
            labels = read_labels(path)
            check_labels(labels, row.num_classes, row.ignore_label, path)
            yield record["file_name"], np.where(labels == row.ignore_label, -1, labels)


def is_shared(model: str) -> bool:
    """Whether a model is kept for everybody who asks for it by its name: of the package, of the zoo or of the hub."""
    path = Path(model)
    places = (Path(maft.__file__).parent, cache_folder())
    return not path.exists() or any(path.resolve().is_relative_to(place.resolve()) for place in places)


def held_out(predictor: Predictor, name: str, images: int | None = None) -> Held:
    """The images of a dataset that a model was not trained on, ``images`` of them spread over it.

    Raises:
        UserError: there are too few, they have no label maps, or they are those of the training.
    """
    row = dataset(name)
    for training in predictor.cfg.DATASETS.TRAIN:
        if training.startswith(PAIRS_PREFIX):
            continue
        other = dataset(training)
        if (other.images, other.split) == (row.images, row.split):
            raise UserError(
                f"The images of {name} are those that the model was trained on ({training}): calibrate on held-out "
                "images."
            )
    records = load_records([name], "--dataset")
    if records and "sem_seg_file_name" not in records[0]:
        raise UserError(f"{name} has no label maps, which say what is absent: calibrate on a dataset that has some.")
    if images is not None and images > len(records):
        raise UserError(f"{name} has {len(records)} images, fewer than {images}: ask for as many at most.")
    if images is not None:
        records = [records[place * len(records) // images] for place in range(images)]
    if len(records) < _FOURTH:
        raise UserError(f"A calibration takes at least {_FOURTH} images, and these are {len(records)}: give more.")
    return Held(name, records)


@torch.no_grad()
def fitted_temperature(predictor: Predictor, words: Vocabulary, pictures: Iterable[Annotated]) -> tuple[float, Judged]:
    """The temperature of a model on some pictures, see `fit_temperature`."""
    return fit_temperature(_sample(predictor, words, *picture) for picture in pictures)


def _sample(predictor: Predictor, words: Vocabulary, image: ImageLike, truth: NDArray[np.integer]) -> Sample:
    pixels = _pixels(image, truth)
    rows, columns = grid((truth.shape[0], truth.shape[1]))
    scores, labels = predictor.scores(image, pixels, words, (len(rows), len(columns)))
    return scores.flatten(1), labels.flatten(), torch.from_numpy(truth)[rows[:, None], columns].flatten()


@torch.no_grad()
def observed(
    predictor: Predictor, words: Vocabulary, pictures: Iterable[Annotated], temperature: float
) -> list[Observed]:
    """What a model answers of some pictures, whose label maps number the first of the words, and how sure it is."""
    found = []
    for image, truth in pictures:
        result = predictor.result(image, _pixels(image, truth), words, None, temperature=temperature)
        labels, plain, tempered = (result[f"sem_seg_{part}"] for part in ("labels", "confidence", "tempered"))
        annotated = torch.from_numpy(truth).to(labels.device)
        found.append(Observed.of(labels, plain, tempered, annotated, len(words)))
    return found


def _pixels(image: ImageLike, truth: NDArray[np.integer]) -> NDArray[np.uint8]:
    pixels = pixels_of(image)
    if pixels.shape[:2] != truth.shape:
        sizes = ["x".join(map(str, shape[1::-1])) for shape in (pixels.shape, truth.shape)]
        name = image if isinstance(image, (str, Path)) else "An image"
        raise UserError(f"{name} is {sizes[0]}, but its label map is {sizes[1]}: image and labels differ.")
    return pixels


@dataclass(frozen=True)
class Report:
    """A calibration, and what it is worth on pictures that it does not come from.

    Attributes:
        calibration: of all pictures.
        error_before, error_after: expected calibration error on the pictures that the temperature was not fitted to,
            with confidence that is fitted to the others of them.
        measured: alpha -> group -> what thresholds of one half of these pictures do on the other, both ways together;
            None where a half has too few for the alpha.
    """

    calibration: Calibration
    error_before: float
    error_after: float
    measured: dict[float, dict[str, GroupMeasured] | None]


def calibrate(
    predictor: Predictor,
    held: Held,
    absent: Sequence[str] = (),
    alphas: Sequence[float] = (0.05, 0.1, 0.2),
) -> Report:
    """Calibrates a model on a dataset with its class names.

    Args:
        absent: further words to offer, which are in no picture.
        alphas: for the report.

    Raises:
        UserError: nothing is absent anywhere, or a picture cannot be used.
    """
    known = Vocabulary(tuple(class_names(held.name, predictor.cfg.MODEL.VOCABULARY.CLASS_NAMES)))
    if there := [word for word in absent if known.find(word) is not None]:
        raise UserError(
            f"--absent names {shown(there[0])}, which is a class of {held.name}: name words that are in no image of it."
        )
    words = predictor.prepare([*known.names, *absent])
    fourth = held.records[::_FOURTH]
    rest = [record for place, record in enumerate(held.records) if place % _FOURTH]
    temperature, judged = fitted_temperature(predictor, words, held.annotated(fourth))
    pictures = observed(predictor, words, held.annotated(rest), temperature)
    confidence = fit_confidence(temperature, [judged, *(one.judged() for one in pictures)])
    calibrated = [one.calibrated_by(confidence) for one in pictures]
    return Report(
        calibration_from(predictor, words, held.name, confidence, len(fourth), calibrated),
        calibration_error(pictures, calibrated=False),
        calibration_error(cross_calibrated(temperature, judged, pictures), calibrated=True),
        {alpha: cross_measured(calibrated, words, alpha) for alpha in alphas},
    )


def calibration_from(
    predictor: Predictor,
    words: Vocabulary,
    name: str,
    confidence: CalibratedConfidence,
    temperature_images: int,
    pictures: Sequence[Observed],
) -> Calibration:
    """The calibration of what was observed, see `Observed.calibrated_by`.

    Args:
        name: of the dataset.
        confidence: whose temperature was fitted to other pictures.
        temperature_images: how many.

    Raises:
        UserError: every word is in every picture.
    """
    curves = risk_curves(pictures, seen_flags(words))
    if not curves:
        raise UserError(
            f"Every word is in every image of {name}, so that there is no absent word to calibrate on: name words that "
            "are in none of them with --absent."
        )
    return Calibration(
        model=fingerprint(predictor.model, {}),
        facts=predictor.calibration_facts(),
        dataset=name,
        words=words.names,
        confidence=confidence,
        confidence_images=temperature_images,
        groups=curves,
    )


def seen_flags(words: Vocabulary) -> NDArray[np.bool_]:
    """(C,) bool, the words that count as seen."""
    return np.array(words.seen or (False,) * len(words), dtype=bool)


def cross_measured(pictures: Sequence[Observed], words: Vocabulary, alpha: float) -> dict[str, GroupMeasured] | None:
    """What the thresholds of each half of the pictures do on the other half; None where one has too few pictures."""
    seen = seen_flags(words)
    halves = pictures[::2], pictures[1::2]
    parts = []
    for own, other in (halves, halves[::-1]):
        curves = risk_curves(own, seen)
        if any(alpha * (curve.images + 1) < 1 for curve in curves.values()):
            return None
        # Of a group without a curve no word is absent anywhere here.
        of_group = [curves[group].threshold(alpha) if group in curves else 0.0 for group in GROUPS]
        parts.append((other, [of_group[0] if flag else of_group[1] for flag in seen]))
    return measured(parts, seen)
