#!/usr/bin/env python3
"""Draws docs/images/show_once.png: an example, and the labels of a scene by words alone and with that example."""

from pathlib import Path

from maft.errors import ToolParser, run_tool

TARGET = Path(__file__).resolve().parent.parent / "docs/images/show_once.png"
# As in docs/show_once.md.
WORDS = ("sand", "water", "brick", "bee", "gift", "donut", "hoop")
SHOWN, BOX, SCENE = 5, (40, 16, 75, 51), 22


def main() -> None:
    ToolParser(description=__doc__).parse_args()

    import numpy as np
    from PIL import Image

    from maft.exports.overlays import named_overlay
    from maft.files import atomic_path
    from maft.miniature import render_scene
    from maft.predictor import Predictor
    from maft.visualize import contact_sheet
    from maft.vocabulary import Vocabulary

    predictor = Predictor.from_pretrained("miniature")
    example = predictor.example(render_scene(SHOWN, "train").image, box=BOX)
    words = Vocabulary(WORDS)
    scene = render_scene(SCENE, "val").image
    place = WORDS.index("hoop")
    pictures = {
        "the example, found by its box": named_overlay(example.image, np.where(example.mask, place, -1), WORDS),
        "another scene, by words alone": predictor(scene, words).overlay(),
        "and with the example": predictor(scene, words.add("hoop", [example])).overlay(),
    }
    with atomic_path(TARGET) as temporary:
        Image.fromarray(contact_sheet(list(pictures.values()), list(pictures))).save(
            temporary, format="PNG", optimize=True
        )


if __name__ == "__main__":
    run_tool(main)
