"""Conversion of many files: parallel, resumable, safe from being killed."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from maft.data.catalog import DatasetRow
from maft.data.layouts import link_advice
from maft.data.reading import files_by_stem
from maft.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

_CHUNK = 16


def require(row: DatasetRow, sources: Mapping[Path, str]) -> None:
    """Checks that the original download (path -> what it is, in words) is there before anything is converted.

    Raises:
        UserError: something is missing; the message lists everything and names the download page.
    """
    missing = [f"{path} ({meaning})" for path, meaning in sources.items() if not path.exists()]
    if advice := next((link for path in sources if not path.exists() and (link := link_advice(path))), ""):
        raise UserError(f"Missing: {missing[0]}: {advice}.")
    if missing:
        raise UserError(
            f"Missing: {'; '.join(missing)}. Download from {row.homepage} and unpack as datasets/README.md draws."
        )


def read_list(file: Path) -> list[str]:
    """Names in an image list of a dataset, one a line.

    Raises:
        UserError: the list is empty or no text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"Image list {file} is no UTF-8 text ({error.reason}): save it as such, or download it again."
        ) from None
    names = [line.split()[0] for line in text.split("\n") if line.strip()]
    if not names:
        raise UserError(f"Image list {file} is empty: download it again.")
    return names


def image_stems(row: DatasetRow, folder: Path) -> list[str]:
    """The images of a dataset below a folder, without ``row.image_suffix``.

    Raises:
        UserError: there is none, or one has a name that no JSON file can hold.
    """
    stems = sorted(files_by_stem(folder, row.image_suffix))
    if not stems:
        raise UserError(f"There is no image (*{row.image_suffix}) in {folder}: get them from {row.homepage}.")
    for stem in stems:
        try:
            stem.encode()
        except UnicodeEncodeError:
            raise UserError(f"The name of image {stem!r} in {folder} is no UTF-8 text: rename it.") from None
    return stems


def require_files(row: DatasetRow, paths: Iterable[Path], what: str) -> None:
    """Checks that every file of a list is there.

    Raises:
        UserError: there are none, or some are missing; the message says how many, names three and the download page.
    """
    wanted = list(paths)
    if not wanted:
        raise UserError(
            f"There are no {what} for {row.name}: the download is incomplete, get it again from {row.homepage}."
        )
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(wanted)} {what} are missing, such as {', '.join(map(str, missing[:3]))}: "
            f"the download is incomplete, get it again from {row.homepage}."
        )


def run_jobs(function: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int, description: str) -> list[Result]:
    """Applies a picklable function to every job, in processes, with a progress bar; results keep the order.

    Raises:
        UserError: the first one that a job raises; the jobs done so far keep their files.
    """
    bar = partial(tqdm, total=len(jobs), desc=description, unit="file", disable=None if jobs else True)
    if workers == 1 or len(jobs) <= _CHUNK:
        return [function(job) for job in bar(jobs)]
    with ProcessPoolExecutor(min(workers, -(-len(jobs) // _CHUNK)), initializer=_end_with_parent) as pool:
        return list(bar(pool.map(function, jobs, chunksize=_CHUNK)))


def _end_with_parent() -> None:
    # A worker of a killed run would wait for its next job for ever.
    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
