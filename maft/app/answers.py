"""From the fields of the app to an answer, and a mistake to the field that it belongs to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from maft.app.photos import Photo
from maft.app.shown import Shown
from maft.app.words import looks_like_a_list, split_names
from maft.errors import UserError
from maft.predictor import Prediction, Predictor, thing_flags

# Each costs a passage through the text encoder, and others wait meanwhile.
MOST_WORDS = 5000
MOST_CLICKS = 50
_NOTHING_SHOWN = Shown()

Field = Literal["photo", "words", "things", "result"]


class FieldError(UserError):
    """A mistake in one field of the app, said beside it."""

    def __init__(self, field: Field, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Answer:
    """What one question to a model gave.

    Attributes:
        prediction: at the size of the picture.
        seen: whether each class was seen in training; None where that is unknown.
        remarks: what the visitor should know of the words.
        clicked: whether it is of the objects at places of the picture, and of nothing else.
    """

    prediction: Prediction
    seen: tuple[bool, ...] | None
    remarks: tuple[str, ...]
    clicked: bool = False

    def is_unseen(self, label: int) -> bool:
        """Whether it is known that training had no label of this class."""
        return self.seen is not None and not self.seen[label]

    @property
    def size(self) -> int:
        """Bytes that it needs, nearly."""
        found = self.prediction
        arrays = [found.image, found.labels, found.confidence, *(one.mask for one in found.instances or ())]
        if found.segment_ids is not None:
            arrays.append(found.segment_ids)
        return sum(array.nbytes for array in arrays)


def ask(
    predictor: Predictor,
    photo: Photo,
    words: str,
    things: str,
    progress: Callable[[float, str], object],
    clicks: str = "",
    shown: Shown = _NOTHING_SHOWN,
    alpha: float = 1.0,
) -> Answer:
    """Labels a photo, or the objects at places of it.

    Args:
        words: classes, one a line.
        things: the countable ones among them, one a line; every one when it is blank.
        clicks: JSON of places, see `clicked_points`; blank for the whole photo.
        shown: classes with examples, which join the words.
        alpha: see `Predictor`.
        progress: is told the share that is done, and what comes next.

    Raises:
        FieldError: a field holds what cannot be used.
    """
    names = split_names(words)
    if not names:
        raise FieldError("words", "There are no words: write at least one class, each on a line of its own.")
    if len(names) > MOST_WORDS:
        raise FieldError("words", f"There are {len(names)} words, and this app takes {MOST_WORDS}: write fewer.")
    with _about("words"):
        vocabulary = shown.beside(predictor.vocabulary(names))
    countable: list[str] | Literal["all"] = split_names(things) or "all"
    with _about("things"):
        thing_flags(vocabulary, countable)
    points = clicked_points(clicks, photo)
    progress(0.1, f"Encoding {len(names)} {'word' if len(names) == 1 else 'words'}")
    with _about("words"):
        vocabulary = predictor.prepare(vocabulary)
    progress(0.3, "Labelling the picture")
    with _about("photo"):
        pixels = photo.pixels()
    with _about("result"):
        if points:
            prediction = predictor(pixels, vocabulary, points=points)
        else:
            prediction = predictor(pixels, vocabulary, things=None if averages(predictor) else countable, alpha=alpha)
    remarks = tuple(_remarks(names, prediction.unknown_words))
    return Answer(prediction, vocabulary.seen, remarks, clicked=bool(points))


def clicked_points(text: str, photo: Photo) -> list[tuple[float, float]]:
    """Pixels of a photo where it was clicked, the last first, so that its object is on top.

    Args:
        text: JSON of [x, y] in shares of width and height, in 0..1; blank: none.

    Raises:
        FieldError: it is none, or there are too many.
    """
    try:
        places = [(float(x), float(y)) for x, y in json.loads(text or "[]")]
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        places = [(-1.0, -1.0)]
    if not all(0 <= share < 1 for place in places for share in place):
        raise FieldError("photo", "The click did not arrive: click the picture again.")
    if len(places) > MOST_CLICKS:
        raise FieldError(
            "photo", f"The app names {MOST_CLICKS} clicked objects at a time: label the picture to begin anew."
        )
    return [(x * photo.width, y * photo.height) for x, y in reversed(places)]


def averages(predictor: Predictor) -> bool:
    """Whether a model's config averages several looks at a picture, which gives labels but no segments."""
    return predictor.cfg.TEST.AUG.ENABLED or predictor.cfg.TEST.SLIDING_WINDOW.ENABLED


def _remarks(names: list[str], unknown: tuple[str, ...]) -> Iterator[str]:
    if unknown:
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        yield (
            f"This model's CLIP has never seen: {', '.join(unknown[:10])}{more}. What it says of "
            f"{'this word' if len(unknown) == 1 else 'these words'} is a guess."
        )
    if looks_like_a_list(names):
        yield f"{names[0]!r} is one class with synonyms: give each class a line of its own to tell them apart."


@contextmanager
def _about(field: Field) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise FieldError(field, str(error)) from error
