"""From what a visitor has filled in to what the viewer shows, or to mistakes beside their fields."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import gradio

from maft.app.answers import Answer, FieldError, ask
from maft.app.memory import Memory
from maft.app.models import Models
from maft.app.photos import Photo, shown_size
from maft.app.regions import VIEWS, regions
from maft.app.shown import Shown
from maft.errors import UserError

GONE = "The picture is no longer kept: choose it again."
FAILED = "The app failed at this; its log on the server says why. Try another picture or model."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        photo: its name in the memory.
        clicks: see `maft.app.answers.clicked_points`.
        model: its name.
        words, things: as they were typed.
        shown: name of what the visitor has shown in the memory, see `shown_by`.
        alpha: see `maft.predictor.Predictor`.
    """

    photo: str
    clicks: str
    model: str
    words: str
    things: str
    shown: str = ""
    alpha: float = 1.0


class Asking:
    """Asks models about pictures that are kept in a memory."""

    def __init__(self, models: Models, memory: Memory) -> None:
        self.models, self.memory = models, memory

    def photo(self, token: str) -> Photo:
        """A picture that is kept.

        Raises:
            FieldError: there is none.
        """
        if not token:
            raise FieldError("photo", "There is no picture yet: choose one first.")
        photo = self.memory.get(token)
        if not isinstance(photo, Photo):
            raise FieldError("photo", GONE)
        return photo

    def shown_by(self, token: str) -> Shown:
        """The examples of a visitor.

        Raises:
            UserError: they are no longer kept.
        """
        if not token:
            return Shown()
        shown = self.memory.get(token)
        if not isinstance(shown, Shown):
            raise UserError("Your examples are no longer kept: remove them, and show them again.")
        return shown

    def __call__(self, question: Question, progress: Any) -> tuple[Any, dict[str, str], tuple[str, ...]]:
        """The value of the viewer, mistakes by field, and remarks."""
        wrong: dict[str, str] = {}
        value: Any = gradio.skip()
        answer = None
        try:
            answer = self._answer(question, progress)
            value = self._shown(question, answer)
        except FieldError as error:
            wrong[error.field] = str(error)
        except UserError as error:
            wrong["result"] = str(error)
        # A defect of ours: the visitor is told so, and the log has the traceback.
        except Exception:
            log.exception("the app failed")
            wrong["result"] = FAILED
        if "photo" in wrong:
            value = {"error": wrong["photo"]}
        return value, wrong, answer.remarks if answer else ()

    def _answer(self, question: Question, progress: Any) -> Answer:
        photo, shown = self.photo(question.photo), self.shown_by(question.shown)
        progress(0, "" if self.models.is_loaded(question.model) else f"Loading {question.model}")
        return ask(
            self.models.get(question.model),
            photo,
            question.words,
            question.things,
            lambda done, text: progress(done, text),
            question.clicks,
            shown,
            question.alpha,
        )

    def _shown(self, question: Question, answer: Answer) -> dict[str, Any]:
        """What the viewer needs of an answer."""
        takes_clicks = self.models.get(question.model).model.proposer.takes_prompts
        found = answer.prediction
        height, width = found.labels.shape
        columns, rows = shown_size(width, height)
        views = {}
        for view in VIEWS:
            if (seen := regions(found, view)) is not None:
                views[view] = [{**one, "unseen": answer.is_unseen(one["label"])} for one in seen.described]
        note = f"{width} × {height} pixels. Point at the picture to see what a region is."
        if takes_clicks:
            note += " Click an object to find it."
        name = self.memory.put(answer, answer.size)
        return {
            "photo": question.photo, "answer": name, "width": columns, "height": rows, "views": views, "note": note,
            "clicked": answer.clicked, "takes_clicks": takes_clicks,
        }  # fmt: skip
