"""The tab with pages that explain evaluated runs."""

from __future__ import annotations

import html
from collections.abc import Sequence

import gradio


def build(titles: Sequence[str]) -> None:
    """The contents of the tab.

    Args:
        titles: of pages that are served by their numbers, see `maft.app.routes`.
    """
    if not titles:
        gradio.HTML(
            "<p>Where a run loses its score is said by a page that <code>maft explain RUN --output DIR</code> writes "
            "and <code>maft app --explanation DIR</code> shows here.</p>"
        )
    for number, title in enumerate(titles):
        address, name = f"maft/explanations/{number}", html.escape(title)
        gradio.HTML(
            f'<p><b>{name}</b> <a href="{address}" target="_blank" rel="noopener">Open it alone</a></p>'
            f'<iframe src="{address}" title="Explanation of {name}" sandbox="allow-scripts" loading="lazy"></iframe>',
            elem_classes="maft-explanation",
        )
