"""How the constants of examples were chosen: on seen classes, in scenes of a world of their own.

Some seen classes at a time play the unseen ones: with a classifier that trains the held-out four, whose names it never
saw, with a frozen one other six in each draw. The really unseen classes have no examples, and their IoU is not looked
at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from maft.examples import Example
from maft.files import read_json, write_json_atomic, write_text_atomic
from maft.miniature import miniature_classes, render_scene
from maft.predictor import Predictor
from maft.reproduction.methods import TUNING, Method
from maft.reproduction.miniature import prepare
from maft.reproduction.report import table
from maft.reproduction.runs import execute, trained
from maft.reproduction.show_once import SHOTS, Setting, drawn_examples, ious, looked_at, methods
from maft.sharpening import CONSTANTS
from maft.structures import Vocabulary

CANDIDATES = tuple(
    replace(CONSTANTS, caution=caution, ridge=ridge, sharpness=sharpness, margin=margin)
    for caution, ridge, sharpness, margin in (
        (0.0, 0.3, 8.0, 2.0),
        (0.1, 0.3, 8.0, 2.0),
        (0.2, 0.3, 8.0, 2.0),
        (0.3, 0.3, 8.0, 2.0),
        (0.4, 0.3, 8.0, 2.0),
        (0.2, 0.1, 8.0, 2.0),
        (0.3, 0.1, 8.0, 2.0),
        (0.4, 0.1, 8.0, 2.0),
        (0.3, 0.3, 6.0, 2.0),
        (0.4, 0.1, 6.0, 2.0),
        (0.2, 0.1, 12.0, 2.0),
        (0.3, 0.3, 8.0, 4.0),
    )
)
# Of other classes in any draw, by the number of examples, in points of mIoU: what the choice allows. By one example it
# is half of what a user may lose, as classes that nobody drew here may be worse. By more, one draw of mask pooling
# costs over two whatever the constants are.
MOST_LOST = {1: 0.5, 3: 3.0, 5: 3.0}
_WORLD, _SCENES, _DRAWS, _AT_ONCE = 5, 60, 6, 6

# Of one draw, in points of mIoU: what classes with examples gain, and what the other seen ones do.
Changes = tuple[float, float]


def tuning_methods() -> list[Method]:
    """The rows of the table of examples; what trains does so without the held-out classes."""
    return [replace(row, overrides=(*row.overrides, *TUNING)) for row in methods()]


def tune_show_once(folder: Path, rows: Sequence[Method]) -> str:
    """The table of candidates, the best one first; what is measured already is not measured again.

    Best is the largest gain, mean of classifiers and numbers of examples, of those with which other classes lost no
    more than `MOST_LOST` in any draw; after them come the others, by how far they exceed it.

    Writes table.json, with the changes of every draw, and table.md.

    Args:
        rows: some of `tuning_methods`; what trains is trained in the folder unless it is done.
    """
    prepare()
    measured = {row.name: _once(folder, row) for row in rows}
    lines = [_line(number, measured) for number in range(len(CANDIDATES))]
    text = table(sorted(lines, key=_rank, reverse=True))
    write_json_atomic(folder / "table.json", measured)
    write_text_atomic(folder / "table.md", text + "\n")
    return text


def _rank(line: Mapping[str, Any]) -> tuple[float, float]:
    exceeded = max(0.0, *(-line[_worst(shots)] - most for shots, most in MOST_LOST.items()))
    return -exceeded, line["gain"]


def _worst(shots: int) -> str:
    return f"worst of the others, {shots}"


def _line(number: int, measured: dict[str, Any]) -> dict[str, Any]:
    gains, worst = {}, {}
    for shots in SHOTS:
        draws = [found[str(shots)][number] for found in measured.values()]
        gains[f"gain, {shots}"] = fmean(gain for one in draws for gain, _ in one)
        worst[_worst(shots)] = min(others for one in draws for _, others in one)
    one = CANDIDATES[number]
    constants = {key: getattr(one, key) for key in ("caution", "ridge", "sharpness", "margin")}
    return {**constants, "gain": fmean(gains.values()), **gains, **worst}


def _once(folder: Path, row: Method) -> dict[str, list[list[Changes]]]:
    run = row.run(folder, 1)
    file = run.folder.parent / f"{run.folder.name}_candidates.json"
    candidates = [asdict(one) for one in CANDIDATES]
    if not file.is_file() or read_json(file)["candidates"] != candidates:
        execute(run)
        weights = trained(run).overrides if row.trains else run.overrides
        measured = _measured(Predictor.from_config(run.config, weights), row.trains)
        write_json_atomic(file, {"candidates": candidates, "measured": measured})
    return read_json(file)["measured"]


def _shown_classes(trains: bool) -> Iterator[tuple[str, ...]]:
    """Of each draw, the classes that play unseen ones."""
    world = miniature_classes()
    seen = [name for name in world.names if name not in world.unseen[0]]
    for draw in range(_DRAWS):
        order = np.random.default_rng(draw).permutation(len(seen))[:_AT_ONCE]
        yield world.held_out if trains else tuple(seen[index] for index in order)


@torch.no_grad()
def _measured(predictor: Predictor, trains: bool) -> dict[str, list[list[Changes]]]:
    """Changes by number of examples (as a string, for JSON), candidate and draw."""
    names, unseen = miniature_classes().names, miniature_classes().unseen[0]
    model = predictor.model
    found: dict[str, list[list[Changes]]] = {str(shots): [[] for _ in CANDIDATES] for shots in SHOTS}
    batches = list(looked_at(predictor, [render_scene(number, "val", _WORLD) for number in range(_SCENES)]))
    for draw, shown in enumerate(_shown_classes(trains)):
        words = Vocabulary(names, tuple(name not in (*unseen, *shown) for name in names))
        examples: dict[str, list[Example]] = drawn_examples(shown, draw, world=_WORLD)
        before = ious(model, batches, words)
        for shots in SHOTS:
            vocabulary = predictor.asked(Setting(shots, True).vocabulary(words, examples))
            for candidate, constants in zip(found[str(shots)], CANDIDATES, strict=True):
                after = ious(model, batches, vocabulary, constants)
                change = {name: after[name] - before[name] for name in before.keys() & after.keys()}
                gain = fmean(change[name] for name in change if name in shown)
                others = fmean(change[name] for name in change if name not in (*unseen, *shown))
                candidate.append((gain, others))
    return found
