"""Where the results of an evaluation lie."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maft.errors import UserError, first_line
from maft.files import read_json

_INFERENCE = "inference"
# In the folder of a dataset's results, where TEST.SAVE_INDEX is on.
INDEX = "index"


def results_folder(output: str | os.PathLike[str], dataset: str) -> Path:
    """``OUTPUT_DIR/inference/<dataset>``."""
    return Path(output) / _INFERENCE / re.sub(r"[^\w.-]+", "_", dataset)


def find_results(run: str | os.PathLike[str], dataset: str | None = None) -> Path:
    """The folder of the results of one dataset.

    Args:
        run: an ``OUTPUT_DIR``, its ``inference/<dataset>``, or the ``results.json`` there.
        dataset: which one; None where there are results of one alone.

    Raises:
        UserError: there are no results, or of several datasets and none is named.
    """
    path = Path(run)
    if path.name == "results.json":
        path = path.parent
    if (path / "results.json").is_file():
        if dataset not in (None, own := _dataset(path)):
            raise UserError(f"{path} is an evaluation on {own}, not on {dataset}: leave --dataset out.")
        return path
    found = sorted(file.parent for file in (path / _INFERENCE).glob("*/results.json"))
    if not found:
        raise UserError(f"{run} holds no results of an evaluation: give the OUTPUT_DIR of maft evaluate or maft train.")
    if dataset is not None:
        folder = results_folder(path, dataset)
        if folder not in found:
            raise UserError(f"{run} has no results on {dataset}: it has those on {', '.join(map(_dataset, found))}.")
        return folder
    if len(found) > 1:
        listed = ", ".join(map(_dataset, found))
        raise UserError(f"{run} has results on {len(found)} datasets: choose one with --dataset ({listed}).")
    return found[0]


def read_results(folder: Path) -> dict[str, Any]:
    """``results.json`` of a dataset.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / "results.json"
    try:
        report = read_json(path)
        _check(report)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}): evaluate again.") from None
    return report


def _check(report: Mapping[str, Any]) -> None:
    """Raises ValueError or TypeError where a report does not have the form that evaluations write."""
    tables = report["results"]
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ValueError("its results are no tables")
    for table in tables.values():
        for name, value in table.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ValueError(f"its {name} is no number")
    if not isinstance(report.get("provenance", {}), dict):
        raise ValueError("its provenance is no table")


def _dataset(folder: Path) -> str:
    return str(read_results(folder).get("dataset", folder.name))
