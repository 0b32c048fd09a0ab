"""The page: a picture with its labels on one side, the question on the other."""

from __future__ import annotations

import html
import json
import logging
from pathlib import Path
from typing import Any

import gradio

from maft.app.answers import Answer, Field, FieldError, ask
from maft.app.memory import Memory
from maft.app.models import Models
from maft.app.photos import Examples, Limits, Photo, shown_size
from maft.app.regions import VIEWS, regions
from maft.app.words import OWN, Preset, first_preset, presets, without_leftovers
from maft.errors import UserError
from maft.zoo import MINIATURE

_HERE = Path(__file__).parent
_TRAINED = "what this model was trained on"
# The viewer knows which picture it shows and where it was clicked; both go along with the question, a click once.
_WITH_PHOTO = """(_, __, ...rest) => {
  const stage = document.querySelector('[data-part=stage]');
  const { photo = '', clicks = '' } = stage.dataset;
  stage.dataset.clicks = '';
  if (!clicks) stage.dispatchEvent(new Event('whole'));
  return [photo, clicks, ...rest];
}"""
_GONE = "The picture is no longer kept: choose it again."

# Gradio recognises it among the defaults of a function's arguments.
_PROGRESS = gradio.Progress()

log = logging.getLogger(__name__)


def build(models: Models, memory: Memory, examples: Examples, limits: Limits) -> gradio.Blocks:
    """The page around some models.

    Args:
        models: what can be asked; the first is loaded and asked unless the visitor chooses another.
        memory: where photos and answers are kept for a while, shared with `maft.app.routes`.

    Raises:
        UserError: the first model cannot be loaded.
    """
    first = models.get(models.names[0])
    title, preset = first_preset(first)
    with gradio.Blocks(title="maft", analytics_enabled=False) as page:
        photo, clicks = gradio.Textbox(visible=False), gradio.Textbox(visible=False)
        # Countable things that a vocabulary wrote into their field, not the visitor.
        given = gradio.State(preset.things)
        gradio.HTML(
            "<h1>maft</h1><p>Your picture, your words: every pixel is named by one of them.</p>", elem_id="maft-head"
        )
        with gradio.Row(elem_id="maft-page"):
            with gradio.Column(scale=7, min_width=320):
                viewer = gradio.HTML(
                    html_template=_text("viewer.html"),
                    js_on_load=_text("viewer_take.js") + _text("viewer_draw.js"),
                    elem_id="maft-view",
                    examples=[name for name, _ in examples],
                    most_bytes=limits.most_bytes,
                    takes_clicks=first.model.proposer.takes_prompts,
                )
            with gradio.Column(scale=4, min_width=300):
                model = gradio.Dropdown(
                    models.names, value=models.names[0], label="Model", elem_id="maft-model",
                    info=f"{MINIATURE} knows 24 drawn things and nothing of photographs; for those, "
                    "maft app --model maft-vitb16 fetches a released model.",
                )  # fmt: skip
                vocabulary = gradio.Dropdown(
                    [OWN, _TRAINED, *presets()], value=title, label="Start from a vocabulary", elem_id="maft-vocabulary"
                )
                words = gradio.Textbox(
                    "\n".join(preset.names), lines=7, max_lines=7, label="Words, one class a line",
                    info="Commas separate synonyms of one class.", elem_id="maft-words",
                )  # fmt: skip
                said = {"words": _beside()}
                remarks = _beside()
                go = gradio.Button("Label the picture", variant="primary", elem_id="maft-go")
                said["result"] = _beside()
                things = gradio.Textbox(
                    "\n".join(preset.things), lines=3, max_lines=3, label="Countable things among them, one a line",
                    info="Each object of theirs is a region of its own. Blank: every word.", elem_id="maft-things",
                )  # fmt: skip
                said["things"] = _beside()

        fields: list[Field] = ["words", "things", "result"]

        def begin_with(name: str, model_name: str) -> list[Any]:
            if name == OWN:
                return [gradio.skip()] * 4
            try:
                found = Preset(models.get(model_name).vocabulary().names, ()) if name == _TRAINED else presets()[name]
            except UserError as error:
                return [gradio.skip()] * 3 + [_error(str(error))]
            return ["\n".join(found.names), "\n".join(found.things), found.things, _error(None)]

        def label(
            token: str,
            places: str,
            model_name: str,
            text: str | None,
            countable: str | None,
            written: tuple[str, ...],
            progress: gradio.Progress = _PROGRESS,
        ) -> list[Any]:
            wrong: dict[str, str] = {}
            text, countable = text or "", without_leftovers(countable or "", written, text or "")
            value: Any = gradio.skip()
            answer = None
            try:
                answer = _answer(memory, models, token, places, model_name, text, countable, progress)
                value = _shown(memory, token, answer, models.get(model_name).model.proposer.takes_prompts)
            except FieldError as error:
                wrong[error.field] = str(error)
            except UserError as error:
                wrong["result"] = str(error)
            # A defect of ours: the visitor is told so, and the log has the traceback.
            except Exception:
                log.exception("the app failed")
                wrong["result"] = (
                    "The app failed at this; its log on the server says why. Try another picture or model."
                )
            if "photo" in wrong:
                value = {"error": wrong["photo"]}
            remarked = _remarks(answer.remarks if answer else ())
            return [value, countable, *(_error(wrong.get(field)) for field in fields), remarked]

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
            label, [photo, clicks, model, words, things, given],
            [viewer, things, *(said[field] for field in fields), remarks], js=_WITH_PHOTO,
            concurrency_limit=2, show_progress="full", show_progress_on=[viewer], api_visibility="private",
            # A click while an answer is under way is asked about after it, and not lost.
            trigger_mode="always_last",
        )  # fmt: skip
    return page.queue(max_size=32)


def _answer(
    memory: Memory, models: Models, token: str, clicks: str, model_name: str, words: str, things: str, progress: Any
) -> Answer:
    if not token:
        raise FieldError("photo", "There is no picture yet: choose one first.")
    photo = memory.get(token)
    if not isinstance(photo, Photo):
        raise FieldError("photo", _GONE)
    progress(0, "" if models.is_loaded(model_name) else f"Loading {model_name}")
    return ask(models.get(model_name), photo, words, things, lambda done, text: progress(done, text), clicks)


def _shown(memory: Memory, token: str, answer: Answer, takes_clicks: bool) -> dict[str, Any]:
    """What the viewer needs of an answer."""
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
    name = memory.put(answer, answer.size)
    of_clicks = {"clicked": answer.clicked, "takes_clicks": takes_clicks}
    return {"photo": token, "answer": name, "width": columns, "height": rows, "views": views, "note": note, **of_clicks}


def _beside() -> gradio.HTML:
    return gradio.HTML(visible=False)


def _error(text: str | None) -> Any:
    return gradio.update(
        visible=bool(text), value=f'<p class="maft-error" role="alert">{html.escape(text)}</p>' if text else ""
    )


def _remarks(texts: tuple[str, ...]) -> Any:
    lines = "".join(f'<p class="maft-remark" role="status">{html.escape(text)}</p>' for text in texts)
    return gradio.update(visible=bool(texts), value=lines)


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
