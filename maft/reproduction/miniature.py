"""The papers' claims on the miniature world: the demo's two rows, and the whole table over several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from maft.data.miniature import ensure_miniature
from maft.files import write_json_atomic, write_text_atomic
from maft.predictor import Predictor
from maft.reproduction.methods import FROZEN_CLIP, MAFT, TABLE, TUNING_TABLE, Method
from maft.reproduction.report import draw_losses, draw_predictions, spread, table
from maft.reproduction.runs import execute, ground_truth_masks, mean, scores, use_datasets

TEST_SET = "miniature_val"
_PICTURES = 8


def prepare() -> None:
    """Draws the miniature world below DETECTRON2_DATASETS (default: ``datasets``) unless it is there."""
    use_datasets(Path("datasets"))
    ensure_miniature(progress=True)


def demo(folder: Path, iterations: int | None = None) -> str:
    """Frozen CLIP against MAFT with one seed; writes table.json, loss curves and pictures, returns the table.

    Args:
        iterations: of MAFT's training; those of its config by default.
    """
    prepare()
    rows = []
    shorter = replace(MAFT, overrides=("SOLVER.MAX_ITER", str(iterations))) if iterations else MAFT
    runs = {method.name: method.run(folder, seed=1) for method in (FROZEN_CLIP, shorter)}
    for name, run in runs.items():
        record = execute(run)
        rows.append({"method": name, **scores(record, TEST_SET), "seconds": record["seconds"]})
    maft_run = runs[MAFT.name]
    draw_losses({"MAFT": maft_run.folder}, folder / "losses.png")
    predictors = {
        "frozen CLIP": Predictor.from_config(runs[FROZEN_CLIP.name].config),
        "MAFT": Predictor.from_pretrained(maft_run.folder / "model_final"),
    }
    draw_predictions(predictors, TEST_SET, range(_PICTURES), folder / "pictures")
    return _write(folder, rows)


def reproduce(folder: Path, methods: Sequence[Method] = TABLE, seeds: Sequence[int] = (1, 2, 3)) -> str:
    """A table: every method with every seed, on proposals and on ground-truth masks; mean and deviation."""
    prepare()
    return _write(folder, [_row(folder, method, seeds) for method in methods])


def tune(folder: Path, methods: Sequence[Method] = TUNING_TABLE) -> str:
    """The choices behind the configs, such as start layers and rates, scored on held-out SEEN classes, one seed."""
    prepare()
    rows = []
    for method in methods:
        seconds = method.prepare(folder, seed=1)
        record = execute(method.run(folder, seed=1))
        seconds += record["seconds"]
        rows.append({"method": method.name, **scores(record, "miniature_val_tuning"), "seconds": seconds})
    return _write(folder, rows)


def _row(folder: Path, method: Method, seeds: Sequence[int]) -> dict[str, Any]:
    proposals, oracle, seconds = [], [], []
    for seed in seeds if method.trains else seeds[:1]:
        before = method.prepare(folder, seed)
        run = method.run(folder, seed)
        record = execute(run)
        proposals.append(scores(record, TEST_SET))
        seconds.append(before + record["seconds"])
        oracle.append(scores(execute(ground_truth_masks(run)), TEST_SET))
    row: dict[str, Any] = {"method": method.name}
    for column in ("sIoU", "uIoU", "hIoU"):
        row[column] = spread([result[column] for result in proposals])
    for column in ("sIoU", "uIoU", "hIoU"):
        row[f"{column}, true masks"] = spread([result[column] for result in oracle])
    row["seconds"] = mean(seconds)
    return row


def _write(folder: Path, rows: list[dict[str, Any]]) -> str:
    text = table(rows)
    write_json_atomic(folder / "table.json", rows)
    write_text_atomic(folder / "table.md", text + "\n")
    return text
