"""Tables, loss curves and pictures of the experiments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from tabulate import tabulate

from maft.data.catalog import class_names
from maft.data.reading import read_image, read_labels
from maft.data.records import load_records
from maft.files import atomic_path
from maft.predictor import Predictor
from maft.visualize import side_by_side


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; numbers with one decimal, missing ones as a dash."""
    columns = list(rows[0])
    lines = [[_cell(row.get(column)) for column in columns] for row in rows]
    return tabulate(
        lines,
        headers=columns,
        tablefmt="github",
        disable_numparse=True,
        colalign=["left"] + ["right"] * (len(columns) - 1),
    )


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean of several seeds, and with two or more the standard deviation."""
    text = f"{fmean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {stdev(values):.{digits}f}"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def draw_losses(folders: Mapping[str, Path], file: Path) -> None:
    """Draws every loss in the metrics.json of training folders, one panel a loss, one line a folder."""
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name, folder in folders.items():
        for line in (folder / "metrics.json").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            for key, value in record.items():
                if key.startswith("loss_"):
                    curves.setdefault(key, {}).setdefault(name, []).append((record["iteration"], value))
    figure = Figure(figsize=(5 * len(curves), 3.5), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)
    for axis, (loss, lines) in zip(axes[0], sorted(curves.items()), strict=True):
        for name, points in lines.items():
            axis.plot(*zip(*points, strict=True), label=name)
        axis.set(title=loss.removeprefix("loss_").replace("_", " "), xlabel="iteration")
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=120)


def draw_predictions(predictors: Mapping[str, Predictor], dataset: str, indices: Sequence[int], folder: Path) -> None:
    """Writes one picture per image: the image, its ground truth, and what each predictor says, with a legend."""
    names = class_names(dataset)
    records = load_records([dataset], "DATASETS.TEST")
    for index in indices:
        record = records[index]
        image = read_image(record["file_name"])
        maps = {"ground truth": read_labels(record["sem_seg_file_name"])}
        for name, predictor in predictors.items():
            maps[name] = predictor(image, names).labels
        with atomic_path(folder / f"{Path(record['file_name']).stem}.png") as temporary:
            Image.fromarray(side_by_side(image, maps, names)).save(temporary)
