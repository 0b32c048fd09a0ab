#!/usr/bin/env python3
"""Measure what an index costs on one core of this machine, and compute from it what one of 1 M and 1 B images costs.

Prints the tables of docs/index_format.md. --model is a trained model, of which all is measured. Of the architecture of
each --config-file, with untrained weights, the time of a look and the shapes are measured; the masks of the trained
model, resized to its grid, stand for its own.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maft.errors import ToolParser, run_tool

if TYPE_CHECKING:
    from maft.index.stored import StoredImage
    from maft.predictor import Predictor

UNTRAINED = ["MODEL.WEIGHTS", "", "MODEL.START_FROM", "[]", "MODEL.CLIP.PRETRAINED", "random", "MODEL.DEVICE", "cpu"]
_COMPARED, _REPEATS = 200_000, 5
_SCALES = {"1 M": 10**6, "1 B": 10**9}


@dataclass(frozen=True)
class Cost:
    """Of one model; bytes and seconds are means.

    Attributes:
        size: (height, width) at which it sees images, of the first.
        grid: (h, w) of its masks.
        masks: of an image.
        look: seconds of one core for an image: reading, looking, packing.
        embeddings, queries, runs, values: bytes of a mask.
        rest: bytes of an image for all else.
        compared: masks that one core compares with a word in a second.
    """

    name: str
    size: tuple[int, int]
    grid: tuple[int, int]
    masks: float
    look: float
    embeddings: float
    queries: float
    runs: float
    values: float
    rest: float
    compared: float

    def image_bytes(self, *, exact: bool) -> float:
        """Of one image."""
        return self.masks * (self.embeddings + self.queries + self.runs + exact * self.values) + self.rest


def measured(name: str, predictor: "Predictor", files: Sequence[str], masks_of: "Sequence[StoredImage]" = ()) -> Cost:
    """The cost of a model.

    Args:
        files: images.
        masks_of: what another model saw, whose masks stand for this one's.
    """
    from maft.data.photos import PhotoMapper
    from maft.index.looking import look
    from maft.index.packing import packed
    from maft.structures import Vocabulary

    mapper, words = PhotoMapper(predictor.cfg), Vocabulary(("object",))
    look(predictor.model, mapper({"file_name": files[0]}), words)
    started, seen, images = time.process_time(), [], []
    for position, file in enumerate(files):
        seen.append(look(predictor.model, mapper({"file_name": file}), words)[2])
        images.append(packed(position, seen[-1], "exact"))
    seconds = (time.process_time() - started) / len(files)
    grid = images[0].entry.mask_size
    if masks_of:
        images = [packed(0, _with_masks_of(one, grid), "exact") for one in masks_of]
    own = [packed(0, one, "binary") for one in seen]
    count = sum(image.entry.masks for image in own)
    parts = _bytes(own)
    width = next(own[0].parts[part].shape[-1] for part in ("embeddings", "queries") if part in own[0].parts)
    others = _bytes(images)
    stand = sum(image.entry.masks for image in images)
    named = ("embeddings", "queries", "runs", "values")
    rest = sum(size for part, size in parts.items() if part not in named) + _header_bytes(own)
    return Cost(
        name=name,
        size=seen[0].size,
        grid=grid,
        masks=count / len(own),
        look=seconds,
        embeddings=parts.get("embeddings", 0) / count,
        queries=parts.get("queries", 0) / count,
        runs=others["runs"] / stand,
        values=others["values"] / stand,
        rest=rest / len(own),
        compared=_compared(int(width)),
    )


def _with_masks_of(image: "StoredImage", grid: tuple[int, int]) -> "StoredImage":
    """An image with masks resized to a grid and nothing else."""
    proposals = image.proposals
    masks = replace(proposals, masks=proposals.resized(grid), queries=None, valid=None)
    return replace(image, proposals=masks, embedded=None)


def _bytes(images: Sequence[Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for image in images:
        for part, tensor in image.parts.items():
            found[part] = found.get(part, 0) + tensor.numel() * tensor.element_size()
    return found


def _header_bytes(images: Sequence[Any]) -> int:
    from maft.index.format import written
    from maft.index.packing import joined

    return len(written(joined("0" * 64, 0, images, [])[1]))


def _compared(width: int) -> float:
    """Embeddings that one core compares with one word in a second, at best of some tries."""
    import torch

    embeddings, word = torch.randn(_COMPARED, width), torch.randn(width, 1)
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.process_time()
        torch.nn.functional.normalize(embeddings, dim=-1) @ word
        best = min(best, time.process_time() - started)
    return _COMPARED / best


@contextmanager
def one_thread() -> Iterator[None]:
    """One core is what is measured."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def size_of(number: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} PB"


def time_of(seconds: float) -> str:
    """Seconds in the unit that fits."""
    for length, unit in ((365 * 86400, "years"), (86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:,.3g} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def costs_table(costs: Sequence[Cost]) -> str:
    """What was measured, as Markdown."""
    lines = [
        "| | " + " | ".join(cost.name for cost in costs) + " |",
        "|---|" + "---|" * len(costs),
    ]
    rows = {
        "an image as the model sees it": lambda c: f"{c.size[1]} x {c.size[0]}",
        "masks of it": lambda c: f"{c.masks:.0f}, {c.grid[1]} x {c.grid[0]}",
        "embedding, bytes a mask": lambda c: f"{c.embeddings:.0f}",
        "class query, bytes a mask": lambda c: f"{c.queries:.0f}",
        "run lengths, bytes a mask": lambda c: f"{c.runs:.0f}",
        "values, bytes a mask (`exact` alone)": lambda c: f"{c.values:.0f}",
        "all else, bytes an image": lambda c: f"{c.rest:.0f}",
        "an image, `exact`": lambda c: size_of(c.image_bytes(exact=True)),
        "an image, `binary`": lambda c: size_of(c.image_bytes(exact=False)),
        "looking, seconds of a core an image": lambda c: f"{c.look:.3g}",
        "looking, masks a second of a core": lambda c: f"{c.masks / c.look:,.0f}",
        "comparing with a word, masks a second of a core": lambda c: f"{c.compared:,.0f}",
    }
    return "\n".join([*lines, *(f"| {row} | " + " | ".join(map(of, costs)) + " |" for row, of in rows.items())])


def scales_table(costs: Sequence[Cost]) -> str:
    """What follows for collections of images, as Markdown."""
    lines = [
        "| model | images | masks | `exact` | `binary` | embeddings alone | looking, one core | a word, one core |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        for name, images in _SCALES.items():
            masks = images * cost.masks
            sizes = [cost.image_bytes(exact=exact) * images for exact in (True, False)]
            cells = [*map(size_of, sizes), size_of(masks * cost.embeddings), time_of(images * cost.look)]
            lines.append(
                f"| {cost.name} | {name} | {masks:.2g} | {' | '.join(cells)} | {time_of(masks / cost.compared)} |"
            )
    return "\n".join(lines)


def main() -> None:
    tool = ToolParser(description=__doc__)
    tool.add_argument("images", nargs="+", metavar="IMG", help="images and folders")
    tool.add_argument("--model", required=True, metavar="MODEL", help="a trained model, as maft predict takes it")
    tool.add_argument("--config-file", nargs="*", default=[], metavar="CONFIG", help="other architectures")
    tool.add_argument("--most", type=int, default=50, metavar="N", help="images that are looked at (default: 50)")
    tool.add_argument(
        "--pages", nargs="*", default=[], type=Path, metavar="PAGE", help="Markdown files to put the tables into"
    )
    arguments = tool.parse_intermixed_args()

    from maft.cli.predict import find_images
    from maft.data.photos import PhotoMapper
    from maft.index.looking import look
    from maft.predictor import Predictor
    from maft.reproduction.pages import put_table
    from maft.structures import Vocabulary

    logging.disable(logging.WARNING)
    files = find_images(arguments.images)[: arguments.most]
    with one_thread():
        trained = Predictor.from_pretrained(arguments.model, device="cpu")
        costs = [measured(arguments.model, trained, files)]
        mapper = PhotoMapper(trained.cfg)
        seen = [look(trained.model, mapper({"file_name": file}), Vocabulary(("object",)))[2] for file in files]
        for config in arguments.config_file:
            costs.append(measured(config, Predictor.from_config(config, UNTRAINED), files[:3], seen))
    for name, table in (("index costs", costs_table(costs)), ("index scales", scales_table(costs))):
        print(table, end="\n\n")
        for page in arguments.pages:
            put_table(page, name, table)


if __name__ == "__main__":
    run_tool(main)
