"""Conversion of many files: parallel, resumable, safe from being killed."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from maft.data.catalog import DatasetRow
from maft.data.label_rules import LabelTable
from maft.data.preparation.command import Count
from maft.data.records import read_labels_report, write_labels_report
from maft.errors import UserError
from maft.files import atomic_path

Job = TypeVar("Job")
Result = TypeVar("Result")

_UNFINISHED = re.compile(r"^\..*\.[0-9a-f]{8}\.tmp(\.|$)")
_CHUNK = 16


def require(row: DatasetRow, sources: Mapping[Path, str]) -> None:
    """Checks that the original download is there before anything is converted.

    Args:
        row: the dataset.
        sources: path -> what it is, in words.

    Raises:
        UserError: something is missing; the message lists everything and names the download page.
    """
    missing = [f"{path} ({meaning})" for path, meaning in sources.items() if not path.exists()]
    if missing:
        raise UserError(
            f"Missing: {'; '.join(missing)}. Download from {row.homepage} and unpack as datasets/README.md draws."
        )


def stems(folder: Path, suffix: str) -> list[str]:
    """Sorted names of the files with a suffix below a folder, relative, without the suffix."""
    return sorted(
        str(path.relative_to(folder)).removesuffix(suffix)
        for path in folder.rglob(f"*{suffix}")
        if not path.name.startswith(".")
    )


def read_list(file: Path) -> list[str]:
    """Names in an image list of a dataset, one a line."""
    return [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def require_files(row: DatasetRow, paths: Iterable[Path], what: str) -> None:
    """Checks that every file of a list is there.

    Raises:
        UserError: files are missing; the message says how many, names three and the download page.
    """
    wanted = list(paths)
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(wanted)} {what} are missing, such as {', '.join(map(str, missing[:3]))}: "
            f"the download is incomplete, get it again from {row.homepage}."
        )


def clean_unfinished(folder: Path) -> None:
    """Removes temporary files that a killed run left behind."""
    for path in folder.rglob(".*"):
        if _UNFINISHED.match(path.name):
            path.unlink(missing_ok=True)


def run_jobs(function: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int, description: str) -> list[Result]:
    """Applies a picklable function to every job, in processes, with a progress bar; results keep the order.

    Raises:
        UserError: the first one that a job raises; the jobs done so far keep their files.
    """
    bar = partial(tqdm, total=len(jobs), desc=description, unit="file", disable=not jobs)
    if workers == 1 or len(jobs) <= _CHUNK:
        return [function(job) for job in bar(jobs)]
    with ProcessPoolExecutor(
        min(workers, -(-len(jobs) // _CHUNK)), initializer=_end_with, initargs=(os.getpid(),)
    ) as pool:
        try:
            return list(bar(pool.map(function, jobs, chunksize=_CHUNK)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _end_with(parent: int) -> None:
    # A worker of a killed run would wait for its next job for ever.
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def save_labels(labels: NDArray[np.integer], path: Path) -> None:
    """Writes a label map atomically: uint8 as PNG, uint16 as deflated TIFF."""
    with atomic_path(path) as temporary:
        Image.fromarray(labels).save(temporary, **({"compression": "tiff_deflate"} if path.suffix == ".tif" else {}))


def read_map(path: Path) -> NDArray[np.integer]:
    """A label map as stored: (h, w) integers; palette images give their indices.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): download it again.") from None


def convert_labels(
    row: DatasetRow,
    root: Path,
    sources: Mapping[str, Any],
    read: Callable[[Any], NDArray[np.integer]],
    *,
    workers: int,
    drop_empty: bool,
) -> Count:
    """Makes the label maps of a dataset and the report that says that they are complete.

    Args:
        row: the dataset.
        root: the folder of all datasets.
        sources: stem of an image -> whatever ``read`` needs.
        read: picklable; gives the raw (h, w) label map.
        workers: number of processes.
        drop_empty: write no label map for images without a labelled pixel (training sets: nothing to learn there).

    Raises:
        UserError: a source is damaged or holds an unknown id.
    """
    folder = root / row.labels
    clean_unfinished(folder)
    table = LabelTable(row.classes, row.label_rule, seen_only=row.seen_only)
    targets = {stem: folder / f"{stem}{row.label_suffix}" for stem in sources}
    report = read_labels_report(folder)
    known = set(report["without_labels"]) if report and drop_empty else set()
    todo = [stem for stem in sources if stem not in known and not targets[stem].is_file()]
    empty = run_jobs(
        partial(_convert, read, table, drop_empty),
        [(sources[stem], targets[stem]) for stem in todo],
        workers=workers,
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
    empty = drop_empty and bool((labels == table.ignore_label).all())
    if not empty:
        save_labels(labels, target)
    return empty
