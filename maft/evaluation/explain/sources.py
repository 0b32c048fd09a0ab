"""What `maft explain` is given: a run that kept an index of what its model saw, or such an index alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maft.errors import UserError
from maft.evaluation.runs import INDEX, find_results, read_results
from maft.index.format import INDEX_FILE
from maft.index.reading import StoredIndex

_EXPLANATION = "explanation"


@dataclass(frozen=True)
class Source:
    """Where an explanation comes from and goes to.

    Attributes:
        index: folder of the index.
        dataset: whose truth it is held against.
        output: folder beside it for the explanation.
        facts: what is known of the evaluation: its "weights", "provenance", ...; of an index, its "model" and "images".
        measured: the mIoU of the evaluation that is explained, in percent; None where there was none.
    """

    index: Path
    dataset: str
    output: Path
    facts: dict[str, Any]
    measured: float | None = None


def find_source(run: str | os.PathLike[str], dataset: str | None = None) -> Source:
    """What there is to explain.

    Args:
        run: an ``OUTPUT_DIR``, its ``inference/<dataset>``, or an index.
        dataset: which one of a run; that whose images an index of other origin holds.

    Raises:
        UserError: there is neither a run nor an index, the run kept no index, or an index does not say its dataset.
    """
    path = Path(run)
    if (path / INDEX_FILE).is_file():
        return _of_index(path, dataset)
    if not path.exists():
        raise UserError(f"{run} does not exist: give the OUTPUT_DIR of an evaluation, or an index of maft index.")
    folder = find_results(path, dataset)
    report = read_results(folder)
    name = str(report.get("dataset", folder.name))
    if not (folder / INDEX / INDEX_FILE).is_file():
        raise UserError(
            f"{folder} keeps no index of what the model saw: evaluate again with TEST.SAVE_INDEX True, or explain an "
            f"index that maft index --dataset {name} makes with the same model."
        )
    facts: dict[str, Any] = {key: report[key] for key in ("weights", "test_size", "provenance") if key in report}
    measured = report["results"].get("sem_seg", {}).get("mIoU")
    return Source(folder / INDEX, name, folder / _EXPLANATION, {**facts, **_facts(folder / INDEX)}, measured)


def _of_index(path: Path, dataset: str | None) -> Source:
    own = StoredIndex(path).settings.dataset
    if dataset is None and not own:
        raise UserError(f"The index {path} does not say which dataset its images are of: name it with --dataset.")
    if own and dataset not in (None, own):
        raise UserError(f"The index {path} is of {own}, not of {dataset}: leave --dataset out.")
    return Source(path, dataset or own, path / _EXPLANATION, _facts(path))


def _facts(index: Path) -> dict[str, Any]:
    settings = StoredIndex(index).settings
    return {"index": {"model": settings.model, "files": settings.files, "masks": settings.masks}}
