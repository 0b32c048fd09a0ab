"""What an evaluation leaves: tables in the log, a JSON of all numbers, a CSV with one line a class."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from maft.errors import UserError
from maft.files import write_json_atomic, write_text_atomic

Results = dict[str, dict[str, float]]

# Definitions by metric, and what the beginning or the end of a name adds to them.
_TABLE = json.loads(Path(__file__).with_name("metrics.json").read_text(encoding="utf-8"))
_DEFINITIONS, _PARTS, _SUFFIXES = (_TABLE[key] for key in ("metrics", "before", "behind"))
_MEANINGS = {
    **_DEFINITIONS,
    **{part + name: f"{text}; {what}" for part, what in _PARTS.items() for name, text in _DEFINITIONS.items()},
    **{name + suffix: f"{text}; {what}" for suffix, what in _SUFFIXES.items() for name, text in _DEFINITIONS.items()},
    **{
        part + name + suffix: f"{text}; {what}, {kind}"
        for part, what in _PARTS.items()
        for suffix, kind in _SUFFIXES.items()
        for name, text in _DEFINITIONS.items()
    },
    **{f"AP{size[0]}": f"{_DEFINITIONS['AP']}; {size} objects" for size in ("small", "medium", "large")},
}


def definition(metric: str) -> str:
    """What a metric measures, in words; empty for a name that is not a mean."""
    return _MEANINGS.get(metric, "")


def metrics() -> str:
    """The names of all means, for messages."""
    return f"{', '.join(_DEFINITIONS)}; with {', '.join(_PARTS)} before or {', '.join(_SUFFIXES)} behind some"


def results_table(results: Results) -> str:
    """All means of an evaluation with their definitions; per-class numbers are left to the CSV."""
    rows = [
        (task, name, value, definition(name))
        for task, values in results.items()
        for name, value in values.items()
        if definition(name)
    ]
    return _table(rows, ("task", "metric", "%", "definition"))


def expected_table(expected: Sequence[tuple[str, float]], results: Results) -> str:
    """Measured numbers beside the published ones.

    Args:
        expected: (metric, percentage) pairs; a metric may carry its task ("panoptic_seg/PQ").

    Raises:
        UserError: a metric was not measured.
    """
    rows = []
    for metric, published in expected:
        measured = _find(metric, results)
        rows.append((metric, measured, published, measured - published, definition(metric.rsplit("/")[-1])))
    return _table(rows, ("metric", "measured", "expected", "difference", "definition"))


def write_results(folder: Path, results: Results, facts: Mapping[str, Any]) -> None:
    """Writes ``results.json``: ``facts`` about the run and all numbers; what is undefined (NaN) becomes null."""
    write_json_atomic(folder / "results.json", {**facts, "results": numbers(results)})


def numbers(results: Results) -> dict[str, dict[str, float | None]]:
    """Results as JSON has them: what is undefined (NaN) is null."""
    return {
        task: {name: None if math.isnan(value) else value for name, value in values.items()}
        for task, values in results.items()
    }


def write_per_class(path: Path, results: Results, classes: Sequence[Mapping[str, Any]]) -> None:
    """Writes one CSV line a class with the per-class numbers of all tasks; undefined ones (NaN) are left empty.

    Args:
        results: of the evaluators; per-class metrics are called ``<metric>-<class name>``.
        classes: one mapping a class with at least ``name``; its entries are the first columns.
    """
    metrics = dict.fromkeys(
        (task, name.removesuffix("-" + row["name"]))
        for task, values in results.items()
        for row in classes
        for name in values
        if name.endswith("-" + row["name"]) and "-" not in name.removesuffix("-" + row["name"])
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    # Mask accuracy has one name for masks of label maps and of panoptic maps.
    times = Counter(metric for _, metric in metrics)
    writer.writerow([*classes[0], *(f"{task}/{one}" if times[one] > 1 else one for task, one in metrics)])
    for row in classes:
        values = [results[task].get(f"{metric}-{row['name']}", math.nan) for task, metric in metrics]
        writer.writerow([*row.values(), *("" if math.isnan(value) else value for value in values)])
    write_text_atomic(path, text.getvalue())


def _find(metric: str, results: Results) -> float:
    task, _, name = metric.rpartition("/")
    for known, values in results.items():
        if task in ("", known) and name in values:
            return values[name]
    measured = ", ".join(name for values in results.values() for name in values if definition(name))
    raise UserError(f"TEST.EXPECTED names the metric {metric!r}, which was not measured; measured were: {measured}.")


def _table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    return tabulate(rows, headers=headers, tablefmt="simple", floatfmt=".3f")
