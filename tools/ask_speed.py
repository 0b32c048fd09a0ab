#!/usr/bin/env python3
"""Measure what asking costs on one core: 1,000 words of 200 drawn scenes, in seconds of the processor."""

import itertools
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maft.errors import ToolParser, run_tool

# Labels take long, and each image as long as another.
LABELLED = 10


@contextmanager
def timed(what: str, images: int = 1) -> Iterator[None]:
    """Prints the seconds of a block, divided by the number of images."""
    started = time.process_time()
    yield
    print(f"{what:<40}{(time.process_time() - started) / images:8.3f} s")


def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=200, metavar="N", help="how many images (default: 200)")
    parser.add_argument("--words", type=int, default=1000, metavar="N", help="how many words (default: 1000)")
    arguments = parser.parse_args()

    import torch

    from maft.data.photos import PhotoMapper
    from maft.index import Index
    from maft.index.making import Collection, make_index
    from maft.miniature.dataset import materialise
    from maft.predictor import Predictor

    # Of words that the small text tower has never seen nobody needs to be told here.
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    predictor = Predictor.from_pretrained("miniature")
    names = predictor.vocabulary().names
    words = [" ".join(parts) for parts in itertools.islice(itertools.product(names, repeat=3), arguments.words)]
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(materialise(folder, "val", arguments.scenes).rglob("images/*.png"))
        collection = Collection([{"file_name": str(file)} for file in files], PhotoMapper(predictor.cfg))
        make_index(predictor.cfg, predictor.model, Path(folder) / "index", collection)
        with timed("opening the index and its text tower"):
            index = Index(Path(folder) / "index")
        with timed(f"encoding {len(words)} words"):
            index.prepare(words)
        with timed(f"comparing {len(index.rows)} masks with them"):
            index.ask(words, beside=[], top=20)
        shown = min(LABELLED, len(index))
        for asked in (words, words[:20]):
            with timed(f"labels of {len(asked)} words, an image", shown):
                for image in range(shown):
                    index.labels(image, asked)


if __name__ == "__main__":
    run_tool(main)
