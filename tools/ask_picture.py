#!/usr/bin/env python3
"""Draws docs/images/ask.png: masks of drawn scenes that show a donut, as an index of the shipped model finds them."""

import tempfile
from pathlib import Path

from maft.errors import ToolParser, run_tool

TARGET = Path(__file__).resolve().parent.parent / "docs/images/ask.png"
# As in docs/ask.md.
SCENES, WORD, TOP = 24, "donut", 6


def main() -> None:
    ToolParser(description=__doc__).parse_args()

    from maft.data.photos import PhotoMapper
    from maft.index import Index
    from maft.index.making import Collection, make_index
    from maft.miniature.dataset import materialise
    from maft.predictor import Predictor
    from maft.predictor.asked import write_sheet

    predictor = Predictor.from_pretrained("miniature")
    with tempfile.TemporaryDirectory() as folder:
        scenes = sorted(materialise(folder, "val", SCENES).rglob("images/*.png"))
        collection = Collection([{"file_name": str(scene)} for scene in scenes], PhotoMapper(predictor.cfg))
        make_index(predictor.cfg, predictor.model, Path(folder) / "index", collection)
        index = Index(Path(folder) / "index")
        write_sheet(index, index.ask([WORD], top=TOP), TARGET)


if __name__ == "__main__":
    run_tool(main)
