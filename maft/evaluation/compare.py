"""Compares two runs on the same images, and adds up one again, from the counts that evaluations keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from maft.errors import UserError
from maft.evaluation.counts import Counts, read_counts
from maft.evaluation.image_sums import Floats, ImageSums, image_sums
from maft.evaluation.report import Results
from maft.evaluation.resampling import LEVEL, Differences, differences
from maft.evaluation.runs import read_results

# Relative error of the same sum in another order.
_ROUNDING = 1e-9
# Images that a message or a table names.
_SHOWN = 5
_PROVENANCE = ("config", "data", "code", "weights")


@dataclass(frozen=True, eq=False)
class ImageScores:
    """What two runs made of each image.

    Attributes:
        names: of the images.
        first, second: main score of each image by itself, in fractions: its mean over the classes it shows.
    """

    names: tuple[str, ...]
    first: Floats
    second: Floats

    @property
    def difference(self) -> Floats:
        return self.second - self.first

    def largest(self, count: int) -> list[int]:
        """Places of the images whose score falls or rises most, the deepest fall first."""
        known = np.flatnonzero(np.isfinite(self.difference) & (self.difference != 0))
        order = known[np.argsort(self.difference[known], kind="stable")].tolist()
        return order if len(order) <= 2 * count else [*order[:count], *order[-count:]]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two runs on the same images.

    Attributes:
        dataset: on which.
        protocol: ``TEST.PROTOCOL``.
        scores: task -> differences of means and classes.
        images: task -> scores of each image.
        same: part of the provenance -> whether it is the same; parts that a run does not state are left out.
    """

    dataset: str
    protocol: str
    scores: dict[str, Differences]
    images: dict[str, ImageScores]
    same: dict[str, bool]


def compare_runs(first: Path, second: Path) -> Comparison:
    """Compares the results in two folders.

    Args:
        first, second: see `maft.evaluation.runs.find_results`.

    Raises:
        UserError: the counts cannot be read, or are of other images, classes or protocols, or of no common results.
    """
    counts = read_counts(first), read_counts(second)
    other = in_order_of(counts[0], counts[1])
    pairs = [(one, two) for one in image_sums(counts[0]) for two in image_sums(other) if one.task == two.task]
    if not pairs:
        raise UserError(
            f"The runs have no results of one kind: the first counted {', '.join(counts[0].tables) or 'nothing'}, the "
            f"second {', '.join(counts[1].tables) or 'nothing'}."
        )
    said: list[Mapping[str, Any]] = [read_results(folder).get("provenance", {}) for folder in (first, second)]
    return Comparison(
        counts[0].of.dataset,
        counts[0].of.protocol,
        {one.task: differences(one, two) for one, two in pairs},
        {one.task: ImageScores(counts[0].of.names, _of_each(one), _of_each(two)) for one, two in pairs},
        {part: said[0][part] == said[1][part] for part in _PROVENANCE if said[0].get(part) and said[1].get(part)},
    )


def in_order_of(first: Counts, second: Counts) -> Counts:
    """The second run's counts with the images in the order of the first's; images are the same by their names.

    Raises:
        UserError: classes, protocol or images differ, or files of one name.
    """
    one, two = first.of, second.of
    for what, ours, theirs in (
        ("classes", one.class_names, two.class_names),
        ("protocol", one.protocol, two.protocol),
        ("split into seen and unseen classes", one.seen, two.seen),
        ("countable classes", one.things, two.things),
    ):
        if ours != theirs:
            raise UserError(
                f"The runs cannot be compared: the first is on {one.dataset}, the second on {two.dataset}, with "
                f"another {what} ({_first_difference(ours, theirs)})."
            )
    _check_names(one.names, two.names)
    place = {name: number for number, name in enumerate(one.names)}
    moved = torch.tensor([place[name] for name in two.names], dtype=torch.int64)
    pictures, annotations = (torch.empty_like(values) for values in (second.pictures, second.annotations))
    pictures[moved], annotations[moved] = second.pictures, second.annotations
    for what, digests, others in (
        ("images are other files", first.pictures, pictures),
        ("images have other annotations", first.annotations, annotations),
    ):
        differing = (digests != others).any(dim=1).nonzero().flatten().tolist()
        if differing:
            raise UserError(
                f"The runs cannot be compared: {len(differing)} of {len(one.names)} {what} of the same name: "
                f"{_listed([one.names[number] for number in differing])}."
            )
    tables = {task: {**table, "image": moved[table["image"].long()]} for task, table in second.tables.items()}
    return Counts(one, tables, pictures, annotations)


def _check_names(ours: Sequence[str], theirs: Sequence[str]) -> None:
    alone = [[name for name in names if name not in others] for names, others in ((ours, {*theirs}), (theirs, {*ours}))]
    if any(alone):
        parts = [
            f"{len(names)} of {len(whole)} images of the {which} run are not in the other: {_listed(names)}"
            for which, names, whole in zip(("first", "second"), alone, (ours, theirs))
            if names
        ]
        raise UserError(f"The runs are on different images; {'; '.join(parts)}. Evaluate both on the same.")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _first_difference(ours: Any, theirs: Any) -> str:
    if not isinstance(ours, tuple) or not isinstance(theirs, tuple):
        return f"{'some' if isinstance(ours, tuple) else ours}, {'some' if isinstance(theirs, tuple) else theirs}"
    if len(ours) != len(theirs):
        return f"{len(ours)} and {len(theirs)}"
    number, (one, other) = next((n, pair) for n, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1])
    return f"number {number} is {one!r} and {other!r}"


def _of_each(sums: ImageSums) -> Floats:
    # In blocks: the sums of an image are few, all classes of all images many.
    blocks = np.arange(0, len(sums), 1000)
    return np.concatenate([sums.scores(sums.parts[start : start + 1000].toarray())[:, 0] for start in blocks])


def verdict(scores: Differences, images: int) -> str:
    """Whether the main score's difference is noise, as a sentence."""
    name, change = scores.names[0], 100 * float(scores.difference[0])
    if math.isnan(change):
        return f"{name} is not defined: the images show none of the classes."
    if not np.nan_to_num(scores.difference).any() and not np.nan_to_num(scores.high - scores.low).any():
        return f"{name} does not differ: both runs have the same numbers in every image."
    facts = (
        f"{change:+.3f} points of {name} ({100 * LEVEL:.0f} % interval {100 * scores.low[0]:+.3f} to "
        f"{100 * scores.high[0]:+.3f}, p = {scores.p[0]:.4f}, {images} images)"
    )
    if scores.significant[0]:
        return f"The second run is {'better' if change > 0 else 'worse'}: {facts} are more than noise."
    return f"The difference is noise: {facts} can come about by chance."


def comparison_text(comparison: Comparison) -> str:
    """A comparison as tables, and its verdicts."""
    lines = [f"{comparison.dataset} ({comparison.protocol})", ""]
    for task, scores in comparison.scores.items():
        images = comparison.images[task]
        lines += [_score_table(task, scores), "", _image_table(images, scores.names[0]), ""]
    if comparison.same:
        told = [f"{part} {'the same' if same else 'another'}" for part, same in comparison.same.items()]
        lines += [f"Provenance: {', '.join(told)}."]
    for task, scores in comparison.scores.items():
        lines.append(verdict(scores, len(comparison.images[task].names)))
        changed = [scores.names[place] for place in np.flatnonzero(scores.significant) if place >= scores.means]
        lines.append(f"Classes that differ by more than noise: {', '.join(changed) or 'none'}.")
    return "\n".join(lines)


def _score_table(task: str, scores: Differences) -> str:
    ends = f"{100 * LEVEL:.0f} % interval"
    rows = [
        (name, *(100 * value for value in values), p, "yes" if real else "")
        for name, *values, p, real in zip(
            scores.names,
            scores.first,
            scores.second,
            scores.difference,
            scores.low,
            scores.high,
            scores.p,
            scores.significant,
        )
    ]
    headers = (task, "first", "second", "difference", ends, "to", "p", "differs")
    formats = ("", ".3f", ".3f", "+.3f", "+.3f", "+.3f", ".4f", "")
    return tabulate(rows, headers, tablefmt="simple", floatfmt=formats)


def _image_table(images: ImageScores, name: str) -> str:
    rows = [
        (images.names[place], *(100 * values[place] for values in (images.first, images.second, images.difference)))
        for place in images.largest(_SHOWN)
    ]
    if not rows:
        return f"No image has another {name} of its own."
    headers = (f"image, {name} of its own", "first", "second", "difference")
    return tabulate(rows, headers, tablefmt="simple", floatfmt=("", ".3f", ".3f", "+.3f"), disable_numparse=[0])


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON: percentages, and null for what is not defined."""
    tasks = {}
    for task, scores in comparison.scores.items():
        columns = {
            "first": 100 * scores.first,
            "second": 100 * scores.second,
            "difference": 100 * scores.difference,
            "low": 100 * scores.low,
            "high": 100 * scores.high,
            "p": scores.p,
        }
        table = [
            {"name": name, **{key: _number(values[place]) for key, values in columns.items()},
             "differs": bool(scores.significant[place])}
            for place, name in enumerate(scores.names)
        ]  # fmt: skip
        images = comparison.images[task]
        of_images = [
            {"name": name, "first": _number(100 * first), "second": _number(100 * second)}
            for name, first, second in zip(images.names, images.first, images.second)
        ]
        tasks[task] = {
            "verdict": verdict(scores, len(images.names)),
            "noise": not bool(scores.significant[0]),
            "means": table[: scores.means],
            "classes": table[scores.means :],
            "images": of_images,
        }
    return {
        "dataset": comparison.dataset,
        "protocol": comparison.protocol,
        "level": LEVEL,
        "same": comparison.same,
        "tasks": tasks,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def differing_numbers(results: Results, report: Mapping[str, Any]) -> list[tuple[str, str, float, float]]:
    """Where added-up results are not those that ``results.json`` states: (task, metric, added up, stated).

    Numbers are the same where they differ by the rounding of a sum in another order. NaN stands for null, and for what
    only one of them has.
    """
    differing = []
    for task, values in results.items():
        stated = report["results"].get(task) or {}
        for name in values.keys() | stated.keys():
            ours, theirs = values.get(name, math.nan), stated.get(name)
            said = math.nan if theirs is None else float(theirs)
            if not (math.isnan(ours) and math.isnan(said)) and not math.isclose(ours, said, rel_tol=_ROUNDING):
                differing.append((task, name, ours, said))
    return sorted(differing)


def added_up(folder: Path) -> tuple[Results, list[tuple[str, str, float, float]], list[str]]:
    """A run's numbers from the counts of its images, and what ``results.json`` has beside them.

    Returns:
        the numbers; where that file has others, see `differing_numbers`; and the kinds of results that it has and no
        counts are kept of.
    """
    results, report = read_counts(folder).results(), read_results(folder)
    return results, differing_numbers(results, report), [task for task in report["results"] if task not in results]
