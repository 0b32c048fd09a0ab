"""The tab in which a class is shown by examples, marked in the picture."""

from __future__ import annotations

import base64
import html
import logging
from functools import partial
from typing import Any

import gradio

from maft.app.answers import FieldError
from maft.app.asking import FAILED, Asking
from maft.app.marks import example_of, typed_box
from maft.app.notices import beside, error
from maft.app.shown import Shown, thumbnail
from maft.app.tabs.label import Asked
from maft.app.words import split_names
from maft.errors import UserError
from maft.examples import Example

_HOW = {"Click it": "point", "Drag a box": "box", "Draw its outline": "outline"}
# What a pointer does in the picture while the tab is open, see `viewer_mark.js`.
MARKING = f"""(how) => {{
  document.querySelector('[data-part=stage]').dataset.marking = ({_HOW})[how] || '';
}}"""
_WITH_MARK = """(_, __, ...rest) => {
  const { photo = '', mark = '' } = document.querySelector('[data-part=stage]').dataset;
  return [photo, mark, ...rest];
}"""
_NO_DRAFT = "Nothing is marked yet: mark the object in the picture first."

log = logging.getLogger(__name__)


def build(asking: Asking, asked: Asked) -> gradio.Radio:
    """The contents of the tab; returns what says how objects are marked."""
    gradio.HTML("<p>Mark one object in the picture and give it a name. The class then joins the words of all tabs.</p>")
    name = gradio.Textbox(label="Name of the class", max_lines=1, elem_id="maft-shown-name")
    words = gradio.Checkbox(True, label="The name counts as words, too", info="Off: the examples alone define it.")
    how = gradio.Radio(list(_HOW), value="Click it", label="How to mark it in the picture", elem_id="maft-how")
    with gradio.Row():
        typed = gradio.Textbox(
            label="Or type a box", info="x0, y0, x1, y1 in pixels", max_lines=1, elem_id="maft-typed-box", scale=3
        )
        take = gradio.Button("Mark the box", elem_id="maft-take-box", scale=1)
    # Pressed by the viewer.
    mark = gradio.Button("Mark", elem_id="maft-mark")
    draft = gradio.State("")
    said, preview = beside(), gradio.HTML(visible=False, elem_id="maft-draft")
    add = gradio.Button("Add example", variant="primary", elem_id="maft-add")
    photo, marked = gradio.Textbox(visible=False), gradio.Textbox(visible=False)

    def draw(token: str, text: str, box: str, model: str, listed: str | None) -> list[Any]:
        try:
            picture = asking.photo(token)
            found = text or typed_box(box or "", picture)
            example = example_of(asking.models.get(model), picture, found, split_names(listed or "") or None)
        except UserError as wrong:
            return ["", error(str(wrong)), gradio.update(visible=False, value="")]
        except Exception:
            log.exception("the app failed")
            return ["", error(FAILED), gradio.update(visible=False, value="")]
        token = asking.memory.put(example, example.image.nbytes + example.mask.nbytes)
        return [token, error(None), gradio.update(visible=True, value=_preview(example))]

    def keep(token: str, shown: str, called: str | None, with_words: bool) -> list[Any]:
        example = asking.memory.get(token)
        try:
            if not isinstance(example, Example):
                raise FieldError("result", _NO_DRAFT)
            changed = asking.shown_by(shown).add(called or "", example, with_words)
        except UserError as wrong:
            return [gradio.skip(), gradio.skip(), error(str(wrong)), gradio.skip()]
        asking.memory.drop(shown)
        asking.memory.drop(token)
        return [asking.memory.put(changed, changed.size), "", error(None), gradio.update(visible=False, value="")]

    def remove(shown: str, called: str) -> str:
        kept = asking.memory.get(shown)
        changed = kept.remove(called) if isinstance(kept, Shown) else Shown()
        asking.memory.drop(shown)
        return asking.memory.put(changed, changed.size) if changed.classes else ""

    @gradio.render(inputs=[asked.shown], triggers=[asked.shown.change], show_progress="hidden")
    def listed(shown: str) -> None:
        kept = asking.memory.get(shown)
        for one in kept.classes if isinstance(kept, Shown) else ():
            with gradio.Row(elem_classes="maft-shown", key=f"shown-{one.name}"):
                pictures = "".join(f'<img alt="" src="{_data(example)}">' for example in one.examples)
                title = html.escape(one.name) + ("" if one.words else " <small>without words</small>")
                gradio.HTML(f"<p><b>{title}</b></p>{pictures}")
                button = gradio.Button(f"Remove {one.name}", size="sm", min_width=80)
                button.click(partial(remove, called=one.name), [asked.shown], [asked.shown], api_visibility="private")

    outputs = [draft, said, preview]
    quiet: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "always_last"}
    mark.click(
        lambda *given: draw(given[0], given[1] or "{}", "", *given[2:]),
        [photo, marked, asked.model, asked.words], outputs, js=_WITH_MARK, concurrency_limit=2, **quiet,
    )  # fmt: skip
    take.click(
        lambda token, _, *given: draw(token, "", *given),
        [photo, marked, typed, asked.model, asked.words], outputs, js=_WITH_MARK, concurrency_limit=2, **quiet,
    )  # fmt: skip
    add.click(keep, [draft, asked.shown, name, words], [asked.shown, draft, said, preview], api_visibility="private")
    return how


def _data(example: Example, most: int = 160) -> str:
    return "data:image/png;base64," + base64.b64encode(thumbnail(example, most)).decode()


def _preview(example: Example) -> str:
    share = example.mask.mean()
    return (
        f'<p role="status">This is marked, {share:.1%} of the picture. Add it, or mark again.</p>'
        f'<img alt="what is marked, the rest is dim" src="{_data(example, 480)}">'
    )
