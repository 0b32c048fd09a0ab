"""Your own data: ``folder:/path`` with ``images/``, ``masks/`` and ``classes.txt``.

A mask is a single-channel PNG, BMP or TIFF with the stem of its image; a pixel is the number of its line in
``classes.txt``, counted from 0, or the ignore value (255, or 65535 for 16-bit masks; ``ignore.txt`` may hold another
number). Everything else is refused by file name before training starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from maft.data.label_sets import LabelSet, plain_label_set, read_class_list
from maft.errors import UserError

FOLDER_PREFIX = "folder:"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
# Pillow modes whose array holds one number a pixel; the number of a palette image is its palette index.
_LABEL_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}


def folder_path(name: str) -> Path:
    """The folder that ``folder:/path`` names."""
    return Path(name.removeprefix(FOLDER_PREFIX)).expanduser()


def folder_label_set(name: str) -> LabelSet:
    """Classes and ignore value of a folder dataset.

    Raises:
        UserError: the folder, its class list or its masks are missing or unusable.
    """
    folder = folder_path(name)
    for part, meaning in (("", "your data"), ("images", "the images"), ("masks", "one label map an image")):
        if not (folder / part).is_dir():
            raise UserError(
                f"Folder {folder / part} does not exist: {name} needs images/, masks/ and classes.txt, "
                f"and it should hold {meaning}."
            )
    names = read_class_list(folder / "classes.txt")
    return plain_label_set(name, names, ignore_label=_ignore_label(folder))


def folder_items(name: str) -> list[dict[str, Any]]:
    """Detectron2 dicts of a folder dataset, after every mask was checked.

    Raises:
        UserError: an image has no mask or a mask no image, a mask is no label map, or holds an id outside the class
            list, or only 0 and 255 (a binary mask) without an ``ignore.txt`` that says what 255 means.
    """
    folder = folder_path(name)
    labels = folder_label_set(name)
    images = _by_stem(folder / "images", IMAGE_SUFFIXES)
    masks = _by_stem(folder / "masks", MASK_SUFFIXES)
    for found, others, kind, other, advice in (
        (images, masks, "image", "mask", "add its label map"),
        (masks, images, "mask", "image", "add the image"),
    ):
        lonely = sorted(found.keys() - others.keys())
        if lonely:
            raise UserError(
                f"{len(lonely)} of {len(found)} {kind}s in {folder} have no {other}, the first is "
                f"{found[lonely[0]]}: {advice} or remove it."
            )
    explained = (folder / "ignore.txt").is_file()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        problems = pool.map(lambda stem: mask_problem(masks[stem], labels, explained=explained), sorted(masks))
        first = next((problem for problem in problems if problem), None)
        if first:
            pool.shutdown(cancel_futures=True)
            raise UserError(f"{first} Look at all of them with 'python tools/check_data.py {name}'.")
    return [
        {"file_name": str(images[stem]), "sem_seg_file_name": str(masks[stem]), "image_id": stem}
        for stem in sorted(images)
    ]


def mask_problem(path: Path, labels: LabelSet, *, explained: bool) -> str:
    """What is wrong with a mask of a folder dataset, as a sentence; empty when nothing is.

    Args:
        path: the mask.
        labels: the label set of the folder.
        explained: ``ignore.txt`` says which value is ignored.
    """
    try:
        with Image.open(path) as image:
            mode = image.mode
            values = np.unique(np.asarray(image)) if mode in _LABEL_MODES else np.array([])
    except (OSError, UnidentifiedImageError, ValueError) as error:
        return f"Mask {path} cannot be read: {error}."
    if mode not in _LABEL_MODES:
        return f"Mask {path} is a colour image ({mode}): save class numbers in one channel."
    unknown = [int(value) for value in values if value != labels.ignore_label and not 0 <= value < len(labels)]
    if not explained and set(values.tolist()) <= {0, 255} and 255 in values:
        return (
            f"Mask {path} holds only 0 and 255, like a binary mask: save class numbers (0 for the first line of "
            "classes.txt), or write 255 into ignore.txt if 255 does mean 'ignored'."
        )
    if unknown:
        return (
            f"Mask {path} holds the id {', '.join(map(str, unknown[:5]))} but classes.txt has {len(labels)} classes "
            f"(0 to {len(labels) - 1}) and {labels.ignore_label} is ignored: add the class, change the mask, or write "
            "the ignored value into ignore.txt."
        )
    return ""


def _ignore_label(folder: Path) -> int:
    file = folder / "ignore.txt"
    if not file.is_file():
        return 65535 if _is_16_bit(folder / "masks") else 255
    text = file.read_text(encoding="utf-8-sig").strip()
    if not text.isdigit() or int(text) > 65535:
        raise UserError(f"{file} should hold one number from 0 to 65535, the ignored value, not {text!r}.")
    return int(text)


def _is_16_bit(masks: Path) -> bool:
    paths = sorted(path for path in masks.iterdir() if path.suffix.lower() in MASK_SUFFIXES)
    if not paths:
        raise UserError(f"Folder {masks} holds no label map ({', '.join(MASK_SUFFIXES)}): add one an image.")
    try:
        with Image.open(paths[0]) as image:
            return image.mode.startswith("I")
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"Mask {paths[0]} cannot be read: {error}.") from None


def _by_stem(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix.lower() not in suffixes:
            raise UserError(f"File {path} is none of {', '.join(suffixes)}: remove or convert it.")
        if path.stem in found:
            raise UserError(f"Files {found[path.stem]} and {path} have the same stem: rename one.")
        found[path.stem] = path
    if not found:
        raise UserError(f"Folder {folder} holds no file of type {', '.join(suffixes)}.")
    return found
