"""Serves the page: what a visitor may send is limited, and nothing that one sends is written to a disk."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maft.app.explanations import ExplanationPage
from maft.app.models import Models
from maft.app.photos import Examples, Limits
from maft.errors import UserError

if TYPE_CHECKING:
    import gradio

    from maft.index import Index


def serve(
    models: Models,
    examples: Examples,
    limits: Limits,
    *,
    host: str,
    port: int | None,
    explanations: Sequence[ExplanationPage] = (),
    indices: Mapping[str, Index] | None = None,
) -> gradio.Blocks:
    """Opens the app and returns at once.

    Args:
        models: what visitors can ask; the first is loaded before the app opens.
        examples: pictures to choose from.
        limits: what visitors may send.
        port: None takes a free one.
        explanations: pages of ``maft explain`` to show.
        indices: folders of ``maft index`` to ask, by the names that are shown.

    Returns:
        Gradio's page, with its address as ``local_url``, ``block_thread()`` and ``close()``.

    Raises:
        UserError: gradio is not installed, the address is taken, or the first model cannot be loaded.
    """
    _without_traces()
    try:
        import gradio
    except ImportError as error:
        raise UserError('The app needs gradio: install it with pip install "maft[app]".') from error
    from starlette.middleware import Middleware

    from maft.app.layout import build
    from maft.app.memory import Memory
    from maft.app.routes import Policy, Routes

    memory = Memory()
    page = build(models, memory, examples, limits, [one.title for one in explanations], indices or {})
    try:
        page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            state_session_capacity=1000,
            # Said to screen readers, and missing in Gradio's own tables.
            i18n=gradio.I18n(en={"common.complete": "Done"}),
            theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            # Not as css: Gradio would rewrite its selectors.
            head=f"<style>{(Path(__file__).parent / 'page.css').read_text(encoding='utf-8')}</style>",
            app_kwargs={
                "routes": Routes(memory, examples, limits, explanations).all(),
                "middleware": [Middleware(Policy)],
                "docs_url": None,
                "redoc_url": None,
                "openapi_url": None,
            },
        )
    except OSError as error:
        raise UserError(f"The app cannot listen on {host}:{port} ({error}): choose --port.") from error
    return page


def _without_traces() -> None:
    """Before Gradio is imported: it would report to its makers, and cache files where other programs look."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    folder = tempfile.mkdtemp(prefix="maft_app_")
    os.environ["GRADIO_TEMP_DIR"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
