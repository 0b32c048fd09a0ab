"""What is said beside a field: mistakes, which screen readers say at once, and remarks."""

from __future__ import annotations

import html
from typing import Any

import gradio


def beside() -> gradio.HTML:
    """A place for a notice, empty at first."""
    return gradio.HTML(visible=False)


def error(text: str | None) -> Any:
    """Fills a place with a mistake, or empties it."""
    return gradio.update(
        visible=bool(text), value=f'<p class="maft-error" role="alert">{html.escape(text)}</p>' if text else ""
    )


def remarks(texts: tuple[str, ...]) -> Any:
    """Fills a place with what a visitor should know, or empties it."""
    lines = "".join(f'<p class="maft-remark" role="status">{html.escape(text)}</p>' for text in texts)
    return gradio.update(visible=bool(texts), value=lines)
