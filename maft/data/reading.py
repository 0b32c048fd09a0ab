"""Files of datasets and the records that name them; a file that cannot be used is refused by name."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from maft.data.decoding import is_one_of_several, opened, upright_rgb
from maft.errors import UserError, first_line, shown
from maft.files import read_json

# What Detectron2 calls a dataset dict: "file_name" and what else is known of an image or made of it.
Record = dict[str, Any]

# Pillow modes whose array holds one number a pixel; the number of a palette image is its palette index.
_LABEL_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}
# How Pillow names pixels that its decoders change: of 2, 4 or 16 bits a channel, and those where white is zero.
_CHANGED = re.compile(r"\b(?:1|L|LA|RGBA?);(?P<bits>2|4|16|)(?P<inverted>I?)")
# Formats and TIFF compressions that alter values.
_LOSSY = {"JPEG", "JPEG2000", "WEBP", "MPO", "AVIF"}
_LOSSY_COMPRESSIONS = {"jpeg", "tiff_jpeg", "webp"}
_PLAIN_NAME = re.compile(r"(?:\w[\w.-]*/)*\w[\w.-]*")
_UNREADABLE = (
    OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError, ArithmeticError, EOFError,
    LookupError, MemoryError, TypeError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip


@contextmanager
def reading(path: str | os.PathLike[str], kind: str, advice: str) -> Iterator[None]:
    """Turns whatever is wrong with the file that a block reads into one sentence.

    Args:
        path: the file.
        kind: what it is, such as "Label map"; begins the sentence.
        advice: what to do about a file that cannot be read; ends the sentence.

    Raises:
        UserError: the file is missing or broken.
    """
    if not os.path.isfile(path):
        raise UserError(f"{kind} {path} does not exist: check its path.")
    try:
        yield
    except UserError as error:
        raise UserError(f"{kind} {path}: {error}") from error
    except _UNREADABLE as error:
        raise UserError(f"{kind} {path} cannot be read ({first_line(error)}): {advice}.") from error


def read_image(path: str | os.PathLike[str], image_format: str = "RGB") -> NDArray[np.uint8]:
    """Reads a picture, turned upright by its EXIF orientation.

    Args:
        path: of one of the formats of `maft.data.decoding.opened`.
        image_format: ``"RGB"`` or ``"BGR"``.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UserError: the file is missing, truncated or not a picture.
    """
    with reading(path, "Image", "replace or remove it"), opened(path) as image:
        pixels = upright_rgb(image)
    return np.ascontiguousarray(pixels if image_format == "RGB" else pixels[..., ::-1])


def read_map(
    path: str | os.PathLike[str], kind: str = "Label map", advice: str = "download it again"
) -> NDArray[np.integer]:
    """Reads pixels as stored: (H, W) numbers, of a palette image its indices, or (H, W, channels).

    Raises:
        UserError: see `reading`, which ``kind`` and ``advice`` are for.
    """
    with reading(path, kind, advice), opened(path) as image:
        return as_stored(image)


def as_stored(image: Image.Image) -> NDArray[np.integer]:
    """The pixels of an opened picture as `read_map` returns them.

    Raises:
        UserError, ValueError: its format or compression alters values, or it is not one upright picture.
        OSError, SyntaxError: it is damaged.
    """
    if image.format in _LOSSY:
        raise ValueError(f"it is a {image.format}, which alters values, whatever its name says")
    if (compression := image.info.get("compression")) in _LOSSY_COMPRESSIONS:
        raise ValueError(f"its compression {compression} alters values")
    if is_one_of_several(image):
        raise UserError("it holds several pictures, of which one alone would be read: save that one as a file.")
    tiles = getattr(image, "tile", [])  # gone once the pixels are decoded
    changed = _CHANGED.search(str(tiles[0].args)) if tiles else None
    # Before the pixels: Pillow turns some TIFFs as it decodes them, and drops the tag of all.
    if (orientation := image.getexif().get(ExifTags.Base.Orientation, 1)) != 1:
        raise UserError(f"it has the EXIF orientation {orientation}: save it upright without the tag.")
    values = np.asarray(image)
    if changed and changed["inverted"]:
        raise ValueError("its values are stored inverted (white is zero)")
    if values.dtype.kind not in "biu" or (changed and changed["bits"] == "16"):
        raise ValueError("its values are no whole numbers of 8 bits, or of 16 in one channel")
    # Grey values of 2 and 4 bits were spread over 0 to 255.
    return values // {"2": 85, "4": 17}.get(changed["bits"], 1) if changed else values


def read_labels(path: str | os.PathLike[str]) -> NDArray[np.int32]:
    """Reads a label map with one value a pixel: grey, palette (its indices) or 16-bit PNG or TIFF.

    Returns:
        (H, W) int32, the values as stored.

    Raises:
        UserError: the file is missing, broken, or has colour channels.
    """
    labels = read_map(path, advice="replace it")
    if labels.ndim != 2:
        raise UserError(f"Label map {path} has colour channels: store one class id a pixel (grey or palette PNG).")
    return labels.astype(np.int32)


def read_panoptic_ids(path: str | os.PathLike[str]) -> NDArray[np.int32]:
    """Reads a panoptic PNG of the COCO format, segment id = R + 256 G + 65536 B.

    Returns:
        (H, W) int32 segment ids.

    Raises:
        UserError: the file is missing, broken, or not RGB.
    """
    colours = read_map(path, "Panoptic map", "replace it")
    if colours.ndim != 3 or colours.shape[2] < 3:
        raise UserError(f"Panoptic map {path} is not an RGB image: ids are stored as R + 256 G + 65536 B.")
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return red + (green << 8) + (blue << 16)


def value_counts(values: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """The different numbers of an array, ascending, and how often each is there, as ``numpy.unique`` gives them."""
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        return np.unique(values, return_counts=True)
    # Counting takes no sorting.
    counts = np.bincount(values.ravel())
    present = np.flatnonzero(counts)
    return present, counts[present]


def panoptic_colours(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """(H, W) segment ids as the (H, W, 3) uint8 colours of a panoptic PNG, see `read_panoptic_ids`."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def read_annotation(file: Path, *keys: str) -> dict[str, Any]:
    """An annotation file: a JSON object that has ``keys``.

    Raises:
        UserError: the file is damaged or of another kind.
    """
    try:
        table = read_json(file)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"Annotation {file} cannot be read ({reason}): download or prepare it again.") from None
    missing = [key for key in keys if not isinstance(table, dict) or key not in table]
    if missing or not isinstance(table, dict):
        raise UserError(f"Annotation {file} has no {next(iter(missing), 'named entries')!r}: it is of another kind.")
    return table


def inside(root: Path, name: object, source: str | os.PathLike[str]) -> Path:
    """The path below ``root`` that a file from elsewhere names; a link that lies there may lead anywhere.

    Args:
        root: folder that the name must not leave.
        name: path as read, relative to ``root`` or absolute and below it.
        source: the file that names it, for the message.

    Raises:
        UserError: the name is empty, leads elsewhere (on any system) or is no file name.
    """
    # Tables name millions of files, nearly all of them like this.
    if isinstance(name, str) and len(name) < 64 and _PLAIN_NAME.fullmatch(name):
        return root / name
    # Windows' rules hold everywhere: they know both slashes and drives, and a file may come from there.
    parts = PureWindowsPath(name.removeprefix(f"{root.absolute()}/") if isinstance(name, str) else "")
    try:
        unusable = any(len(os.fsencode(part)) > 255 or "\0" in part for part in parts.parts)
    except UnicodeEncodeError:
        unusable = True
    if parts.anchor or not parts.name or ".." in parts.parts or unusable:
        raise UserError(f"{source} names the file {shown(name)}, which does not lie below {root}: correct the entry.")
    return root / str(name)


def files_by_stem(folder: str | os.PathLike[str], suffix: str) -> dict[str, str]:
    """Files below a folder, hidden ones left out, by their path from there without ``suffix``; none if it is missing.

    Raises:
        UserError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise UserError(f"Folder {error.filename} cannot be read ({error.strerror}): correct its rights or links.")

    found = {}
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        # A link may lead to another disk, and back to a folder above it.
        seen.add(os.path.realpath(parent))
        folders[:] = sorted(name for name in folders if os.path.realpath(os.path.join(parent, name)) not in seen)
        prefix = os.path.relpath(parent, folder)
        for file in files:
            if file.endswith(suffix) and not file.startswith("."):
                stem = file.removesuffix(suffix)
                found[stem if prefix == "." else f"{prefix}/{stem}"] = os.path.join(parent, file)
    return found


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a dataset.

    Attributes:
        kind: what it is, in two or three words, such as ``unknown id``.
        text: one sentence: which file, what, and what to do.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class MaskContent:
    """What a label map holds.

    Attributes:
        size: (height, width); None when it cannot be read.
        bits: 8 or 16 (or 32), of a pixel as stored.
        counts: value -> number of pixels; empty when it cannot be read.
        problem: what is wrong with it, if anything.
    """

    size: tuple[int, int] | None
    bits: int
    counts: dict[int, int]
    problem: Problem | None


def inspect_mask(path: str, num_classes: int, ignore_label: int, *, binary_is_meant: bool) -> MaskContent:
    """Reads a label map and checks it against a class list.

    Args:
        path: PNG, BMP or TIFF.
        num_classes: labels are 0..num_classes-1.
        ignore_label: value of pixels without a class.
        binary_is_meant: a map of nothing but 0 and 255 is a label map; otherwise it is taken for a binary mask, in
            which 255 means "object", and is a problem.
    """
    try:
        with reading(path, "Mask", "replace it"), opened(path) as image:
            mode, array = image.mode, as_stored(image)
    except UserError as error:
        return MaskContent(None, 0, {}, Problem("unreadable label", str(error)))
    size = array.shape[:2]
    if mode not in _LABEL_MODES:
        text = f"Mask {path} is a colour image ({mode}): save class numbers in one channel."
        return MaskContent(size, 8, {}, Problem("colour label", text))
    bits = {"1": 8, "L": 8, "P": 8, "I": 32}.get(mode, 16)
    values, numbers = value_counts(array)
    counts = dict(zip(values.tolist(), numbers.tolist()))
    problem = _values_problem(path, set(counts), num_classes, ignore_label, binary_is_meant)
    return MaskContent(size, bits, counts, problem)


def _values_problem(
    path: str, values: set[int], num_classes: int, ignore_label: int, binary_is_meant: bool
) -> Problem | None:
    if not binary_is_meant and values == {0, 255} and num_classes < 256:
        return Problem(
            "binary mask",
            f"Mask {path} holds only 0 and 255, like a binary mask: save class numbers (0 for the first line of "
            "classes.txt), or write 255 into ignore.txt if 255 does mean 'ignored'.",
        )
    unknown = sorted(value for value in values if value != ignore_label and not 0 <= value < num_classes)
    if unknown:
        listed = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        return Problem(
            "unknown id",
            f"Mask {path} holds the id {listed} but there are {num_classes} classes (0 to {num_classes - 1}) and "
            f"{ignore_label} is ignored: correct the mask, the class list, or (in a folder of your own) ignore.txt.",
        )
    return None
