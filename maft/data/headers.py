"""Before a run starts, the headers of all its pictures are read and compared; no pixel is decoded."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from PIL import ExifTags, Image
from tqdm import tqdm

import maft
from maft.data.decoding import opened
from maft.data.reading import Record, reading
from maft.errors import UserError
from maft.files import write_text_atomic

# What a file of a record is called, and what to do when it cannot be read.
_KINDS = {
    "file_name": ("Image", "replace or remove it"),
    "sem_seg_file_name": ("Label map", "prepare the dataset again"),
    "pan_seg_file_name": ("Panoptic map", "prepare the dataset again"),
}
# Files are waited for, above all on network disks; a thread takes so many at a time.
_THREADS, _PART = 16, 64

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def check_headers(name: str, records: Sequence[Record]) -> None:
    """Opens every picture of a dataset and compares its size with that of its label maps and annotation.

    A dataset found in order is remembered in the user's cache by names, sizes and times of its files, so that the next
    run only asks for these.

    Args:
        name: of the dataset, for messages.

    Raises:
        UserError: pictures are missing, unreadable or of another size; the message counts them and shows the first.
    """
    start = time.perf_counter()
    files = [record[key] for record in records for key in _KINDS if record.get(key)]
    state = state_of(files, [(record.get("height"), record.get("width")) for record in records])
    if is_remembered(name, state):
        return
    problems = [problem for problem in _in_threads(_problem, records, name) if problem]
    if problems:
        first = "; ".join(problem.removesuffix(".") for problem in problems[:3])
        raise UserError(
            f"{len(problems)} of {len(records)} images of {name} cannot be used: {first}; 'maft check "
            f"{name}' lists them all."
        )
    remember(name, state)
    seconds = time.perf_counter() - start
    logger.info("Checked the headers of the %d images of %s in %.1f s.", len(records), name, seconds)


def picture_sizes(paths: Sequence[str], kind: str, advice: str) -> list[list[int]]:
    """[height, width] of pictures as stored, by their headers alone; ``kind`` and ``advice`` as for `reading`."""

    def size(path: str) -> list[int]:
        with reading(path, kind, advice), opened(path) as image:
            return [image.height, image.width]

    return list(_in_threads(size, paths))


def is_remembered(name: str, state: str) -> bool:
    """Whether a dataset was in this state when it was last found in order."""
    try:
        return _memory(name).read_text(encoding="utf-8") == state
    except (OSError, UnicodeDecodeError):
        return False


def remember(name: str, state: str) -> None:
    """Notes in the user's cache folder, where that can be written, that a dataset in this state is in order."""
    try:
        write_text_atomic(_memory(name), state)
    except (OSError, UserError) as error:
        logger.info("The next run will check %s again: %s", name, error)


def state_of(paths: Sequence[str], facts: object) -> str:
    """Names, sizes and times of change of files, and what else counts, hashed."""
    digest = hashlib.sha256(f"{maft.__version__} {facts}".encode("utf-8", "surrogateescape"))
    for path, state in zip(paths, _in_threads(_file_state, paths)):
        digest.update(f"{path}\n{state}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _file_state(path: str) -> str:
    try:
        stat = os.stat(path)
    except OSError:
        return "missing"
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _memory(name: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "maft" / "checked" / hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:20]


def _problem(record: Record) -> str:
    """What is wrong with a record's pictures, one sentence; empty when nothing is."""
    expected = record.get("height"), record.get("width")
    image = record["file_name"]
    try:
        sizes = {key: _size(record[key], key, expected) for key in _KINDS if record.get(key)}
    except UserError as error:
        return str(error)
    for key, size in sizes.items():
        if size != sizes["file_name"]:
            return (
                f"{_KINDS[key][0]} {record[key]} is {size[1]}x{size[0]}, but its image {image} is "
                f"{sizes['file_name'][1]}x{sizes['file_name'][0]}: make them the same size."
            )
    if None not in expected and sizes["file_name"] != expected:
        height, width = sizes["file_name"]
        return f"Image {image} is {width}x{height}, but its dataset says {expected[1]}x{expected[0]}: get both again."
    return ""


def _size(path: str, key: str, expected: tuple[Any, Any]) -> tuple[int, int]:
    with reading(path, *_KINDS[key]), opened(path) as image:
        if key != "file_name":
            return image.height, image.width
        # Pixels are turned upright when they are read, by 90 degrees for orientations from 5 on. Pillow's own method
        # would decode a PNG, whose orientation may stand behind the pixels: needed only where the sizes differ.
        found = _upright(image, Image.Image.getexif(image))
        return found if found == expected else _upright(image, image.getexif())


def _upright(image: Image.Image, exif: Image.Exif) -> tuple[int, int]:
    # Pillow turns a TIFF by itself.
    turned = image.format != "TIFF" and exif.get(ExifTags.Base.Orientation, 1) >= 5
    return (image.width, image.height) if turned else (image.height, image.width)


def _in_threads(function: Callable[[Item], Result], items: Sequence[Item], name: str = "") -> Iterator[Result]:
    parts = [items[start : start + _PART] for start in range(0, len(items), _PART)]
    bar = tqdm(total=len(items), desc=f"Checking {name}", unit="image", delay=5, disable=None if name else True)
    with ThreadPoolExecutor(_THREADS) as pool, bar:
        for results in pool.map(lambda part: [function(item) for item in part], parts):
            bar.update(len(results))
            yield from results
