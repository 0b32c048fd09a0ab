"""The report beside a folder of label maps, which tells a finished preparation from an interrupted one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from maft.data.headers import picture_sizes
from maft.data.reading import read_annotation
from maft.errors import UserError
from maft.files import write_json_atomic


class LabelsReport(TypedDict):
    """What a finished preparation says of its label maps.

    Attributes:
        without_labels: stems of images that have none, because no pixel of theirs is labelled.
        sizes: stem -> [height, width] of all the others.
    """

    without_labels: list[str]
    sizes: dict[str, Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]]


_REPORT = TypeAdapter(LabelsReport)


def read_labels_report(labels: Path) -> LabelsReport | None:
    """What a finished preparation left beside a folder of label maps; None when there is no (readable) report."""
    try:
        return _REPORT.validate_python(read_annotation(labels_report_file(labels)), strict=True)
    except (UserError, ValidationError):
        return None


def write_labels_report(labels: Path, without_labels: list[str], files: dict[str, Path]) -> None:
    """Leaves the report that tells a finished preparation from an interrupted one, beside the folder ``labels``.

    Args:
        labels: folder of the label maps.
        without_labels: stems of images that have none, because no pixel of theirs is labelled.
        files: stem -> label map of all the others.
    """
    sizes = label_map_sizes([str(file) for file in files.values()])
    report = LabelsReport(without_labels=without_labels, sizes=dict(zip(files, sizes)))
    if read_labels_report(labels) != report:
        write_json_atomic(labels_report_file(labels), report)


def labels_report_file(labels: Path) -> Path:
    """Where the report on a folder of label maps is."""
    return labels.with_name(f"{labels.name}_report.json")


def label_map_sizes(paths: Sequence[str]) -> list[list[int]]:
    """[height, width] of label maps by their headers."""
    return picture_sizes(paths, "Label map", "remove it and prepare the dataset again")
