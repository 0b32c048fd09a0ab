"""The tab that leaves pixels without a word, under a bound on false alarms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio

from maft.app.asking import Asking
from maft.app.notices import beside, error, remarks
from maft.app.tabs.label import PROGRESS, WITH_PHOTO, Asked, question_of
from maft.errors import UserError

_BOUND = (
    "alpha is the largest share of words that are not in the picture and are answered nevertheless, as a mean over "
    "pictures. This holds for pictures like those of the calibration, with words offered alike; no single picture or "
    "word has a bound of its own."
)


def build(asking: Asking, viewer: gradio.HTML, asked: Asked) -> None:
    """The contents of the tab."""
    gradio.HTML(f"<p>{_BOUND} The words are those of the tab Label.</p>")
    known = beside()
    alpha = gradio.Slider(0.05, 1, value=0.1, step=0.01, label="alpha", info="1 leaves nothing out.")
    go = gradio.Button("Label, or none of these", variant="primary", elem_id="maft-reject")
    said, remarked = beside(), beside()

    def state(model: str, least: float) -> Any:
        return remarks((thresholds(asking, model, least),))

    def reject(
        photo: str, clicks: str, model: str, text: str | None, countable: str | None, written: tuple[str, ...],
        shown: str, least: float, progress: gradio.Progress = PROGRESS,
    ) -> list[Any]:  # fmt: skip
        question = question_of(photo, "", model, text, countable, written, shown)
        value, wrong, noticed = asking(replace(question, alpha=least), progress)
        return [value, error(" ".join(wrong.values())), remarks(noticed), state(model, least)]

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
    asked.model.change(state, [asked.model, alpha], known, **quiet)
    alpha.change(state, [asked.model, alpha], known, **quiet)
    go.click(
        reject, [*asked.all(), alpha], [viewer, said, remarked, known], js=WITH_PHOTO, concurrency_limit=2,
        show_progress="full", show_progress_on=[viewer], api_visibility="private", trigger_mode="always_last",
    )  # fmt: skip
    known.value = state(asked.model.value, 0.1)["value"]
    known.visible = True


def thresholds(asking: Asking, model: str, alpha: float) -> str:
    """What a model leaves out under a bound, or why it bounds nothing."""
    try:
        calibration = asking.models.get(model).calibration
        found = {}
        for group, seen in (("seen", True), ("unseen", False)):
            if group in calibration.groups:
                (found[group],) = calibration.thresholds(alpha, [seen])
    except UserError as wrong:
        return str(wrong)
    listed = " and ".join(f"{value:.4g} for {group} words" for group, value in found.items())
    return f"Calibrated on {calibration.dataset}. Pixels need a confidence of {listed}; 0 leaves nothing out."
