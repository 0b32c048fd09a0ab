#!/usr/bin/env python3
"""Draws docs/images/first.png: a scene of the miniature world beside the names that the shipped model gives it."""

import tempfile
from pathlib import Path

from maft.errors import ToolParser, run_tool

TARGET = Path(__file__).resolve().parent.parent / "docs/images/first.png"
# As in README.md and docs/getting_started.md.
WORDS = ("sand", "cloud", "gift", "flag", "buoy", "donut")
GAP = 12


def main() -> None:
    ToolParser(description=__doc__).parse_args()

    import numpy as np
    from PIL import Image

    from maft.data.reading import read_image
    from maft.files import atomic_path
    from maft.miniature.dataset import materialise
    from maft.predictor import Predictor

    with tempfile.TemporaryDirectory() as folder:
        scene = read_image(materialise(folder, "val", 1) / "images/000000.png")
    overlay = Predictor.from_pretrained("miniature")(scene, WORDS).overlay()
    factor = overlay.shape[1] // scene.shape[1]
    enlarged = scene.repeat(factor, 0).repeat(factor, 1)
    white = np.full((len(enlarged), GAP, 3), 255, np.uint8)
    with atomic_path(TARGET) as temporary:
        Image.fromarray(np.hstack([enlarged, white, overlay[: len(enlarged)]])).save(
            temporary, format="PNG", optimize=True
        )


if __name__ == "__main__":
    run_tool(main)
