"""The demo app in a browser: upload an image, type words, see the labels."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from maft.errors import UserError
from maft.predictor import ImageLike, Predictor


def split_names(text: str) -> list[str]:
    """Class names of a text field, one a line or separated by semicolons (commas separate synonyms of one class)."""
    return [name.strip() for line in text.splitlines() for name in line.split(";") if name.strip()]


def label(predictor: Predictor, image: ImageLike | None, text: str) -> tuple[np.ndarray, list[list[Any]]]:
    """What the app shows: the overlay, and a row [name, share of the image in percent, score] per class found.

    Raises:
        UserError: there is no image, or the words are not a vocabulary.
    """
    if image is None:
        raise UserError("There is no image: upload one first.")
    prediction = predictor(image, split_names(text))
    rows = [[item["name"], round(100 * item["share"], 1), round(item["score"], 3)] for item in prediction.summary()]
    return prediction.overlay(), rows


def build_app(predictor: Predictor) -> Any:
    """The Gradio interface around a predictor.

    Raises:
        UserError: gradio is not installed.
    """
    # Set before the import: Gradio would report the start to its makers.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise UserError("The app needs gradio: install it with pip install -e '.[app]'.") from error

    def answer(image: ImageLike | None, text: str) -> tuple[np.ndarray, list[list[Any]]]:
        try:
            return label(predictor, image, text)
        except UserError as error:
            raise gradio.Error(str(error)) from error

    return gradio.Interface(
        answer,
        inputs=[
            gradio.Image(type="pil", image_mode=None, label="image"),
            gradio.Textbox("\n".join(predictor.vocabulary().names), lines=8, label="your words, one class a line"),
        ],
        outputs=[
            gradio.Image(label="labels"),
            gradio.Dataframe(headers=["class", "% of the image", "score"], label="classes found"),
        ],
        title="maft: your image, your words",
    )
