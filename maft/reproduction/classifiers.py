"""Every mask classifier side by side: names on proposals, names of true masks, and what an image costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from maft.config import load_config
from maft.files import write_json_atomic, write_text_atomic
from maft.reproduction.cost import cost
from maft.reproduction.methods import Method
from maft.reproduction.miniature import TEST_SET, prepare
from maft.reproduction.report import spread, table
from maft.reproduction.runs import QUICKSTART, Run, execute, ground_truth_masks, trained

# Printed columns: title, which run, its task and metric, or of the cost its entry and digits.
_SEMANTIC = {"sIoU": "seen_mIoU", "uIoU": "unseen_mIoU", "hIoU": "harmonic_mIoU"}
_MASK_ACCURACY = {"mask accuracy": "mMaskAcc", "of unseen": "unseen_mMaskAcc"}
_DIGITS = {"s / image": 3, "MiB / image": 0}


def classifier_rows() -> list[Method]:
    """The rows of the table, as ``classifiers.yaml`` beside this file lists them."""
    rows = yaml.safe_load(Path(__file__).with_name("classifiers.yaml").read_text(encoding="utf-8"))
    return [_method(**{key.lower(): value for key, value in row.items()}) for row in rows]


def _method(name: str, config: str, set: Mapping[str, Any] | None = None) -> Method:
    overrides = tuple(str(word) for pair in (set or {}).items() for word in pair)
    node = load_config(f"{QUICKSTART}/{config}", list(overrides)).MODEL
    return Method(name, config, overrides, trains=not (node.PROPOSER.FROZEN and node.CLASSIFIER.FROZEN))


def compare(folder: Path, methods: Sequence[Method], seeds: Sequence[int] = (1, 2, 3)) -> str:
    """The table of mask classifiers on the miniature world; what is done already is not done again.

    Writes table.json, with the numbers of every seed, and table.md. Where masks are those of Mask2Former, they are the
    same in each row: those of the shipped proposer, which stays frozen.

    Raises:
        UserError: a run failed, or a folder holds another one.
    """
    prepare()
    rows = [_row(folder, method, seeds) for method in methods]
    text = table([_printed(row) for row in rows])
    write_json_atomic(folder / "table.json", rows)
    write_text_atomic(folder / "table.md", text + "\n")
    return text


def _row(folder: Path, method: Method, seeds: Sequence[int]) -> dict[str, Any]:
    seeds = seeds if method.trains else seeds[:1]
    runs = [method.run(folder, seed) for seed in seeds]
    model = load_config(runs[0].config, list(runs[0].overrides)).MODEL
    values: dict[str, list[float | None]] = {}
    for run in runs:
        for column, value in _measured(run, model).items():
            values.setdefault(column, []).append(value)
    return {
        "method": method.name,
        "CLIP": model.CLIP.NAME,
        "masks": model.PROPOSER.NAME,
        "config": runs[0].config,
        "overrides": method.overrides,
        "seeds": list(seeds) if method.trains else [],
        "values": values | {column: [value] for column, value in _cost(runs[0]).items()},
    }


def _measured(run: Run, model: CfgNode) -> dict[str, float | None]:
    record = execute(run)
    results = record["results"][TEST_SET]["sem_seg"]
    found = {column: results[metric] for column, metric in _SEMANTIC.items()}
    # Without a classifier, nothing names masks that the proposer did not make.
    if model.CLASSIFIER.NAME != "none":
        # True masks come without class scores of a proposer, which an ensemble would ask for.
        alone = () if model.ENSEMBLE.NAME == "ClassifierAlone" else ("MODEL.ENSEMBLE.NAME", "ClassifierAlone")
        of_truth = execute(ground_truth_masks(run, "TEST.MASK_ACCURACY", "True", *alone))["results"][TEST_SET]
        found["mIoU, true masks"] = of_truth["sem_seg"]["mIoU"]
        found |= {column: of_truth["mask_accuracy"][metric] for column, metric in _MASK_ACCURACY.items()}
    return found | ({} if run.eval_only else {"training seconds": record["seconds"]})


def _cost(run: Run) -> dict[str, float | None]:
    found = cost(trained(run), TEST_SET)
    return {"s / image": found["seconds"], "MiB / image": found["mib"]}


def _printed(row: Mapping[str, Any]) -> dict[str, Any]:
    columns = [*_SEMANTIC, "mIoU, true masks", *_MASK_ACCURACY, *_DIGITS]
    cells = {}
    for column in columns:
        values = row["values"].get(column, [None])
        cells[column] = None if None in values else spread(values, _DIGITS.get(column, 1))
    named = {column: row[column] for column in ("method", "CLIP", "masks")}
    return {**named, "seeds": str(len(row["seeds"]) or "-"), **cells}
