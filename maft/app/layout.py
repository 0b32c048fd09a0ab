"""The page: a picture with its labels on one side, what is asked of it in tabs on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import gradio

from maft.app.asking import Asking
from maft.app.memory import Memory
from maft.app.models import Models
from maft.app.photos import Examples, Limits
from maft.app.tabs import ask, explain, label, none_of_these, show_once
from maft.app.words import first_preset
from maft.index import Index
from maft.zoo import MINIATURE

_HERE = Path(__file__).parent
_NO_MARKING = "() => { document.querySelector('[data-part=stage]').dataset.marking = ''; }"
_VIEWER = ("viewer_take.js", "viewer_draw.js", "viewer_mark.js")


def build(
    models: Models,
    memory: Memory,
    examples: Examples,
    limits: Limits,
    explanations: Sequence[str],
    indices: Mapping[str, Index],
) -> gradio.Blocks:
    """The page around some models.

    Args:
        models: what can be asked; the first is loaded and asked unless the visitor chooses another.
        memory: where photos, answers and examples are kept for a while, shared with `maft.app.routes`.
        explanations: titles of the pages that `maft.app.routes` serves.
        indices: what the tab Ask can ask, by name.

    Raises:
        UserError: the first model cannot be loaded.
    """
    first = models.get(models.names[0])
    asking = Asking(models, memory)
    with gradio.Blocks(title="maft", analytics_enabled=False) as page:
        shown = gradio.State("")
        gradio.HTML(
            "<h1>maft</h1><p>Your picture, your words: every pixel is named by one of them.</p>", elem_id="maft-head"
        )
        with gradio.Row(elem_id="maft-page"):
            with gradio.Column(scale=7, min_width=320):
                viewer = gradio.HTML(
                    html_template=_text("viewer.html"),
                    js_on_load="".join(_text(name) for name in _VIEWER),
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
                # Rendered even while it is not seen: a click on the picture presses a button of the first one.
                with gradio.Tabs(elem_id="maft-tabs"):
                    with gradio.Tab("Label", render_children=True) as of_labels:
                        asked = label.build(asking, viewer, model, first_preset(first), shown)
                    with gradio.Tab("None of these", render_children=True) as of_bounds:
                        none_of_these.build(asking, viewer, asked)
                    with gradio.Tab("Show it once", render_children=True) as of_examples:
                        how = show_once.build(asking, asked)
                    with gradio.Tab("Ask", render_children=True) as of_indices:
                        ask.build(indices)
                    with gradio.Tab("Explain", render_children=True) as of_explanations:
                        explain.build(explanations)
        for tab in (of_labels, of_bounds, of_indices, of_explanations):
            tab.select(None, None, None, js=_NO_MARKING)
        of_examples.select(None, how, None, js=show_once.MARKING)
        how.change(None, how, None, js=show_once.MARKING)
    return page.queue(max_size=32)


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
