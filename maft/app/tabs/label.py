"""The tab that labels the picture with words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import gradio

from maft.app.answers import Field
from maft.app.asking import Asking, Question
from maft.app.notices import beside, error, remarks
from maft.app.words import OWN, Preset, presets, without_leftovers
from maft.errors import UserError

_TRAINED = "what this model was trained on"
# The viewer knows which picture it shows and where it was clicked; both go along with the question, a click once.
WITH_PHOTO = """(_, __, ...rest) => {
  const stage = document.querySelector('[data-part=stage]');
  const { photo = '', clicks = '' } = stage.dataset;
  stage.dataset.clicks = '';
  if (!clicks) stage.dispatchEvent(new Event('whole'));
  return [photo, clicks, ...rest];
}"""

# Gradio recognises it among the defaults of a function's arguments.
PROGRESS = gradio.Progress()


@dataclass(frozen=True)
class Asked:
    """What every question reads, in the order in which functions take it.

    Attributes:
        photo, clicks: filled in by the viewer, see `WITH_PHOTO`.
        model: its name.
        words, things: classes, and the countable ones.
        given: countable things that a vocabulary wrote into their field, not the visitor.
        shown: name of the visitor's examples in the memory.
    """

    photo: gradio.Textbox
    clicks: gradio.Textbox
    model: gradio.Dropdown
    words: gradio.Textbox
    things: gradio.Textbox
    given: gradio.State
    shown: gradio.State

    def all(self) -> list[Any]:
        """The components in their order."""
        return [self.photo, self.clicks, self.model, self.words, self.things, self.given, self.shown]


def question_of(
    photo: str, clicks: str, model: str, text: str | None, countable: str | None, written: tuple[str, ...], shown: str
) -> Question:
    """What the components of `Asked` say."""
    return Question(photo, clicks, model, text or "", without_leftovers(countable or "", written, text or ""), shown)


def build(
    asking: Asking, viewer: gradio.HTML, model: gradio.Dropdown, first: tuple[str, Preset], shown: gradio.State
) -> Asked:
    """The contents of the tab.

    Args:
        first: title and words that it begins with.
    """
    title, preset = first
    photo, clicks = gradio.Textbox(visible=False), gradio.Textbox(visible=False)
    given = gradio.State(preset.things)
    vocabulary = gradio.Dropdown(
        [OWN, _TRAINED, *presets()], value=title, label="Start from a vocabulary", elem_id="maft-vocabulary"
    )
    words = gradio.Textbox(
        "\n".join(preset.names), lines=7, max_lines=7, label="Words, one class a line",
        info="Commas separate synonyms of one class.", elem_id="maft-words",
    )  # fmt: skip
    said = {"words": beside()}
    remarked = beside()
    go = gradio.Button("Label the picture", variant="primary", elem_id="maft-go")
    said["result"] = beside()
    things = gradio.Textbox(
        "\n".join(preset.things), lines=3, max_lines=3, label="Countable things among them, one a line",
        info="Each object of theirs is a region of its own. Blank: every word.", elem_id="maft-things",
    )  # fmt: skip
    said["things"] = beside()
    fields: list[Field] = ["words", "things", "result"]
    asked = Asked(photo, clicks, model, words, things, given, shown)

    def begin_with(name: str, model_name: str) -> list[Any]:
        if name == OWN:
            return [gradio.skip()] * 4
        try:
            trained = name == _TRAINED
            found = Preset(asking.models.get(model_name).vocabulary().names, ()) if trained else presets()[name]
        except UserError as wrong:
            return [gradio.skip()] * 3 + [error(str(wrong))]
        return ["\n".join(found.names), "\n".join(found.things), found.things, error(None)]

    def label(
        photo: str, clicks: str, model: str, text: str | None, countable: str | None, written: tuple[str, ...],
        shown: str, progress: gradio.Progress = PROGRESS,
    ) -> list[Any]:  # fmt: skip
        question = question_of(photo, clicks, model, text, countable, written, shown)
        value, wrong, noticed = asking(question, progress)
        return [value, question.things, *(error(wrong.get(field)) for field in fields), remarks(noticed)]

    vocabulary.input(
        begin_with, [vocabulary, model], [words, things, given, said["words"]],
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    # The title of a vocabulary stands only over its own words; another model was trained on others.
    trained, own = json.dumps(_TRAINED), json.dumps(OWN)
    for box in (words, things):
        box.input(None, vocabulary, vocabulary, js=f"() => {own}")
    model.input(None, vocabulary, vocabulary, js=f"(title) => title === {trained} ? {own} : title")
    go.click(
        label, asked.all(), [viewer, things, *(said[field] for field in fields), remarked], js=WITH_PHOTO,
        concurrency_limit=2, show_progress="full", show_progress_on=[viewer], api_visibility="private",
        # A click while an answer is under way is asked about after it, and not lost.
        trigger_mode="always_last",
    )  # fmt: skip
    return asked
