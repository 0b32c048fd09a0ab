"""The tab that finds masks by words in whole folders of images that were indexed before."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from maft.app.notices import beside, error, remarks
from maft.app.photos import encoded
from maft.app.words import split_names
from maft.errors import UserError
from maft.exports.cut_outs import cut_out
from maft.index import Index
from maft.index.ranking import FoundMask
from maft.predictor.asked import pixels_in

_MOST = 60
_SILHOUETTE = np.uint8(200)


def build(indices: Mapping[str, Index]) -> None:
    """The contents of the tab.

    Args:
        indices: what can be asked, by the name that is shown.
    """
    if not indices:
        gradio.HTML(
            "<p>Whole folders of images are asked here once <code>maft index FOLDER --output DIR</code> has looked at "
            "one and <code>maft app --index DIR</code> has opened it.</p>"
        )
        return
    names = list(indices)
    index = gradio.Dropdown(names, value=names[0], label="Index", visible=len(names) > 1)
    words = gradio.Textbox(lines=3, label="Words to find, one a line", elem_id="maft-ask-words")
    said = beside()
    not_words = gradio.Textbox(
        lines=2, label="Not these, one a line", info="Masks that rather show these are left out."
    )
    top = gradio.Slider(1, _MOST, value=12, step=1, label="How many masks")
    go = gradio.Button("Find", variant="primary", elem_id="maft-ask")
    remarked, shown = beside(), gradio.HTML(elem_id="maft-found")

    def find(name: str, text: str | None, against: str | None, most: float) -> list[Any]:
        try:
            page, noticed = answered(indices[name], text or "", against or "", min(int(most), _MOST))
        except UserError as wrong:
            return [error(str(wrong)), remarks(()), ""]
        return [error(None), remarks(noticed), page]

    go.click(
        find, [index, words, not_words, top], [said, remarked, shown], concurrency_limit=1,
        api_visibility="private", trigger_mode="always_last",
    )  # fmt: skip


def answered(index: Index, words: str, not_words: str, top: int) -> tuple[str, tuple[str, ...]]:
    """The masks that are found, best first, as HTML that needs nothing else; and what a visitor should know.

    Args:
        words: as `split_names` reads them; so are ``not_words``.

    Raises:
        UserError: there is no word, or see `Index.ask`.
    """
    if not (asked := split_names(words)):
        raise UserError("There is no word to find: type one a line.")
    found = index.ask(asked, split_names(not_words), top=top)
    if not found:
        return "", ("No mask is found.",)
    pixels = lru_cache(maxsize=8)(lambda image: _pixels(index, image))
    lines = [_tile(one, pixels(one.image)) for one in found]
    return f'<ol class="maft-found">{"".join(lines)}</ol>', _remark(found, [pixels(one.image) for one in found])


def _pixels(index: Index, image: int) -> NDArray[np.uint8] | None:
    """None where the file is gone or another one now."""
    try:
        return pixels_in(index, image)
    except UserError:
        return None


def _remark(found: Sequence[FoundMask], pixels: Sequence[NDArray[np.uint8] | None]) -> tuple[str, ...]:
    files = {one.file for one, image in zip(found, pixels, strict=True) if image is None}
    if not files:
        return ()
    return (f"Images that are gone, unreadable or changed since they were indexed ({len(files)}) are silhouettes.",)


def _tile(one: FoundMask, image: NDArray[np.uint8] | None) -> str:
    mask = coco_mask.decode(one.segmentation).astype(bool)
    picture = cut_out(np.full((*mask.shape, 3), _SILHOUETTE) if image is None else image, mask)
    word, file = html.escape(one.word), html.escape(Path(one.file).name)
    data = base64.b64encode(encoded(Image.fromarray(picture), "PNG")).decode()
    return (
        f'<li><img src="data:image/png;base64,{data}" alt="{word} in {file}">'
        f"<b>{word}</b> {one.score:.2f}<br><small>{file}</small></li>"
    )
