"""Your own data: ``folder:/path`` with ``images/``, ``masks/`` and ``classes.txt``.

A mask is a single-channel PNG, BMP or TIFF with the stem of its image; a pixel is the number of its line in
``classes.txt``, counted from 0, or the ignore value (255, or 65535 for 16-bit masks; ``ignore.txt`` may hold another
number). Everything else is refused by file name before training starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from maft.data.decoding import opened
from maft.data.headers import is_remembered, remember, state_of
from maft.data.label_sets import LabelSet, plain_label_set, read_class_list
from maft.data.reading import Problem, inspect_mask, reading
from maft.errors import UserError, first_line, shown

FOLDER_PREFIX = "folder:"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


def folder_path(name: str) -> Path:
    """The folder that ``folder:/path`` names, absolute."""
    # Unlike Path's own, this leaves the name of an unknown user as it is.
    return Path(os.path.expanduser(name.removeprefix(FOLDER_PREFIX))).absolute()


def folder_label_set(name: str) -> LabelSet:
    """Classes and ignore value of a folder dataset.

    Raises:
        UserError: the folder, its class list or its masks are missing or unusable.
    """
    folder = folder_path(name)
    for part, meaning in (("", "your data"), ("images", "the images"), ("masks", "one label map an image")):
        if not os.path.isdir(folder / part):
            raise UserError(
                f"Folder {folder / part} does not exist: {name} needs images/, masks/ and classes.txt, "
                f"and it should hold {meaning}."
            )
    names = read_class_list(folder / "classes.txt")
    ignored = _ignore_label(folder)
    if ignored < len(names) and not ignore_is_explained(name):
        raise UserError(
            f"{folder} has {len(names)} classes, so that {ignored} is a class and the ignored value of 8-bit masks at "
            "once: save 16-bit masks, or write the ignored value into ignore.txt."
        )
    return plain_label_set(name, names, ignored)


def folder_files(name: str) -> tuple[dict[str, str], dict[str, str], list[Problem]]:
    """Images and masks of a folder dataset by stem, and what is wrong with the file names.

    Raises:
        UserError: a part of the folder is missing.
    """
    folder = folder_path(name)
    folder_label_set(name)
    images, problems = _by_stem(folder / "images", IMAGE_SUFFIXES)
    masks, more = _by_stem(folder / "masks", MASK_SUFFIXES)
    return images, masks, problems + more


def checked_files(name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Images and masks of a folder dataset by stem, after every mask was read and checked.

    Raises:
        UserError: an image has no mask or a mask no image, a mask is no label map, or holds an id outside the class
            list, or only 0 and 255 (a binary mask) without an ``ignore.txt`` that says what 255 means.
    """
    images, masks, problems = folder_files(name)
    if problems:
        raise UserError(problems[0].text)
    for found, others, kind, other, advice in (
        (images, masks, "image", "mask", "add its label map"),
        (masks, images, "mask", "image", "add the image"),
    ):
        lonely = sorted(found.keys() - others.keys())
        if lonely:
            raise UserError(
                f"{len(lonely)} of {len(found)} {kind}s in {folder_path(name)} have no {other}, the first is "
                f"{found[lonely[0]]}: {advice} or remove it."
            )
    _check_masks(name, list(masks.values()))
    return images, masks


def ignore_is_explained(name: str) -> bool:
    """Whether ``ignore.txt`` says which value means "no class"."""
    return (folder_path(name) / "ignore.txt").is_file()


def _check_masks(name: str, masks: list[str]) -> None:
    labels, explained = folder_label_set(name), ignore_is_explained(name)
    state = state_of(masks, (labels, explained))
    if is_remembered(f"masks of {name}", state):
        return
    bits: int | None = None
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        inspect = partial(
            inspect_mask, num_classes=len(labels), ignore_label=labels.ignore_label, binary_is_meant=explained
        )
        for path, content in zip(masks, pool.map(inspect, masks)):
            problem = content.problem
            if problem is None and bits not in (None, content.bits):
                problem = mixed_depth(path, content.bits)
            if problem:
                pool.shutdown(cancel_futures=True)
                raise UserError(f"{problem.text} 'maft check {name}' lists every such file.")
            bits = content.bits
    remember(f"masks of {name}", state)


def mixed_depth(path: str, bits: int) -> Problem:
    """The problem of a mask whose depth differs from that of the others: their ignore values would differ."""
    return Problem("mixed bit depth", f"Mask {path} has {bits} bits a pixel unlike the others: save all masks alike.")


def _ignore_label(folder: Path) -> int:
    file = folder / "ignore.txt"
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        return 65535 if _is_16_bit(folder / "masks") else 255
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({first_line(error)}): write the ignored value into it.") from error
    # Other scripts have digits too, and int() refuses very long numbers.
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise UserError(f"{file} should hold one number from 0 to 65535, the ignored value, not {shown(text)}.")
    return int(text)


def _is_16_bit(masks: Path) -> bool:
    paths = sorted(path for path in masks.iterdir() if path.suffix.lower() in MASK_SUFFIXES)
    if not paths:
        raise UserError(f"Folder {masks} holds no label map ({', '.join(MASK_SUFFIXES)}): add one an image.")
    with reading(paths[0], "Mask", "replace it"), opened(paths[0]) as image:
        return image.mode.startswith("I")


def _by_stem(folder: Path, suffixes: Iterable[str]) -> tuple[dict[str, str], list[Problem]]:
    found: dict[str, str] = {}
    problems = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_file():
            kind = "sub-folder" if path.is_dir() else "broken link" if path.is_symlink() else "special file"
            problems.append(Problem(kind, f"{path} is a {kind}, which is not read: move or remove it."))
        elif path.suffix.lower() not in suffixes:
            text = f"File {path} is none of {', '.join(suffixes)}: remove or convert it."
            problems.append(Problem("stray file", text))
        elif path.stem in found:
            text = f"Files {found[path.stem]} and {path} have the same stem: rename one."
            problems.append(Problem("same stem twice", text))
        else:
            found[path.stem] = str(path)
    if not found:
        raise UserError(f"Folder {folder} holds no file of type {', '.join(suffixes)}.")
    return found, problems
