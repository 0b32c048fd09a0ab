"""Label maps: how the raw values of published ones become contiguous label indices, and their conversion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter

from maft.data.catalog import DatasetRow
from maft.data.labels_report import labels_report_file, read_labels_report, write_labels_report
from maft.data.preparation.command import Count, Options
from maft.data.preparation.jobs import run_jobs
from maft.errors import UserError
from maft.files import atomic_path, remove_unfinished


@dataclass(frozen=True)
class LabelRule:
    """Numbering of a dataset's original label maps.

    Attributes:
        offset: raw value minus category id.
        maximum: largest value that stands for something; values of it that are no class of the label set are ignored.
        void: values beyond ``maximum`` that mean "no class".
        note: where the numbers come from.
    """

    offset: int
    maximum: int
    note: str
    void: tuple[int, ...] = ()


LABEL_RULES = TypeAdapter(dict[str, LabelRule]).validate_json(Path(__file__).with_suffix(".json").read_bytes())


class LabelTable:
    """Converts raw label maps of one dataset by a lookup table, into the numbers of ``row.labelled``."""

    def __init__(self, row: DatasetRow) -> None:
        rule, labels = LABEL_RULES[row.label_rule], row.classes
        self.ignore_label = labels.ignore_label
        self._table = np.full(1 << 16, labels.ignore_label, np.uint8 if labels.ignore_label <= 255 else np.uint16)
        raw = [labels.category_ids[index] + rule.offset for index in row.labelled]
        self._table[raw] = np.arange(len(raw))
        self._legal = np.zeros(1 << 16, bool)
        self._legal[: rule.maximum + 1] = True
        self._legal[list(rule.void)] = True

    def __call__(self, raw: NDArray[np.integer], source: str) -> NDArray[np.integer]:
        """Converts a raw label map.

        Args:
            raw: (h, w) integers.
            source: name of the file, for error messages.

        Returns:
            (h, w) of the label set's type: uint8, or uint16 where the ignore label is 65535.

        Raises:
            UserError: a value is unknown to the dataset, or the map has not two dimensions.
        """
        if raw.ndim != 2:
            raise UserError(
                f"Label map {source} has {raw.ndim} dimensions where 2 are expected: it is a picture, not a label map."
            )
        if raw.size and (raw.min() < 0 or raw.max() >= len(self._legal) or not self._legal[raw].all()):
            values = np.unique(raw)
            unknown = [int(v) for v in values if not 0 <= v < len(self._legal) or not self._legal[v]]
            raise UserError(
                f"Label map {source} holds the unknown id {', '.join(map(str, unknown[:5]))}: "
                "it is not of this dataset, or damaged; download it again."
            )
        return self._table[raw]


def convert_labels(
    row: DatasetRow,
    options: Options,
    sources: Mapping[str, Any],
    read: Callable[[Any], NDArray[np.integer]],
    *,
    drop_empty: bool = False,
) -> Count:
    """Makes the label maps of a dataset and the report that says that they are complete.

    Args:
        sources: stem of an image -> whatever ``read`` needs.
        read: picklable; gives the raw (h, w) label map.
        drop_empty: write no label map for images without a labelled pixel (training sets: nothing to learn there).

    Raises:
        UserError: a source is damaged or holds an unknown id.
    """
    folder = options.root / row.labels
    remove_unfinished(folder, labels_report_file(folder))
    targets = {stem: folder / f"{stem}{row.label_suffix}" for stem in sources}
    report = read_labels_report(folder)
    known = set(report["without_labels"]) if report and drop_empty else set()
    todo = [stem for stem in sources if stem not in known and not targets[stem].is_file()]
    empty = run_jobs(
        partial(_convert, read, LabelTable(row), drop_empty),
        [(sources[stem], targets[stem]) for stem in todo],
        workers=options.workers,
        description=row.name,
    )
    known |= {stem for stem, is_empty in zip(todo, empty) if is_empty}
    without = sorted(known & sources.keys())
    write_labels_report(folder, without, {stem: path for stem, path in targets.items() if stem not in known})
    return Count(f"{row.name} label maps", len(sources) - len(without), row.images_expected, len(without))


def _convert(
    read: Callable[[Any], NDArray[np.integer]], table: LabelTable, drop_empty: bool, job: tuple[Any, Path]
) -> bool:
    source, target = job
    labels = table(read(source), str(source[0] if isinstance(source, tuple) else source))
    if drop_empty and (labels == table.ignore_label).all():
        return True
    with atomic_path(target) as temporary:
        # uint8 as PNG, uint16 as deflated TIFF.
        Image.fromarray(labels).save(temporary, **({"compression": "tiff_deflate"} if target.suffix == ".tif" else {}))
    return False
