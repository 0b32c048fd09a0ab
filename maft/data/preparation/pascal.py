"""Pascal VOC 2012 and Pascal Context.

VOC: 20 classes (background ignored), 21 with background, and the 15 seen ones of the zero-shot split. Context: the
459-class label maps of the .mat files -> PC-459 and its 59 frequent classes, PC-59.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maft.data.catalog import dataset
from maft.data.preparation.command import Count, Options
from maft.data.preparation.jobs import read_list, require, require_files
from maft.data.preparation.labels import convert_labels
from maft.data.preparation.matlab import read_matrix
from maft.data.reading import inside, read_annotation, read_map
from maft.errors import UserError, first_line

_MOST_PIXELS = 10**8
_SBD = "http://home.bharathh.info/pubs/codes/SBD/download.html"


def prepare_voc(options: Options) -> list[Count]:
    """Converts ``VOCdevkit/VOC2012/SegmentationClassAug`` where it is there, as published, else ``SegmentationClass``.

    Raises:
        UserError: the download is incomplete or damaged.
    """
    voc, archive = options.root / "VOCdevkit" / "VOC2012", "VOCtrainval_11-May-2012.tar"
    row = dataset("voc_20_val")
    augmented = _is_augmented(voc)
    folder = voc / ("SegmentationClassAug" if augmented else "SegmentationClass")
    files = {"train": "trainaug" if augmented else "train", "val": "val"}
    lists = {split: _list(voc, "Segmentation", files[split]) for split in options.splits}
    require(row, dict.fromkeys((voc / "JPEGImages", *lists.values(), folder), archive))
    counts = []
    for split in options.splits:
        sources = {Path(name).stem: folder / f"{Path(name).stem}.png" for name in read_list(lists[split])}
        require_files(row, sources.values(), f"label maps of {lists[split].name}")
        require_files(row, (voc / "JPEGImages" / f"{stem}.jpg" for stem in sources), "images")
        print(f"{split}: {len(sources)} images of {lists[split].name}, labels of {folder.name}")
        if split == "train" and not augmented:
            print(f"WARNING: published zero-shot numbers on VOC are of the 10,582 images of trainaug.txt, see {_SBD}")
        names = ("voc_20_train", "voc_20_train_seen") if split == "train" else ("voc_20_val", "voc_21_val")
        for name in names:
            counts.append(convert_labels(dataset(name), options, sources, read_map, drop_empty=True))
    return counts


def _is_augmented(voc: Path) -> bool:
    augmented, folder = _list(voc, "Segmentation", "trainaug"), voc / "SegmentationClassAug"
    if augmented.is_file() != folder.is_dir():
        raise UserError(
            f"Missing: {folder if augmented.is_file() else augmented}. The 10,582 augmented training images need both "
            f"SegmentationClassAug/ and ImageSets/Segmentation/trainaug.txt (labels of {_SBD}); remove the other one "
            "to use the 1,464 of VOC."
        )
    return augmented.is_file()


def _list(voc: Path, task: str, name: str) -> Path:
    return voc / "ImageSets" / task / f"{name}.txt"


def prepare_pascal_context(options: Options) -> list[Count]:
    """Converts ``VOCdevkit/VOC2010/trainval/*.mat``.

    Raises:
        UserError: the download is incomplete or damaged.
    """
    voc, archive = options.root / "VOCdevkit" / "VOC2010", "VOCtrainval_03-May-2010.tar"
    row = dataset("pascal_context_59_val")
    needed = {voc / "JPEGImages": archive, voc / "trainval": "trainval.tar.gz, the 459-class labels"}
    merged = voc / "trainval_merged.json"
    if not merged.is_file():
        needed |= {_list(voc, "Main", split): archive for split in options.splits}
    require(row, needed)
    phases = _phases(merged) if merged.is_file() else {s: read_list(_list(voc, "Main", s)) for s in options.splits}
    counts = []
    for split in options.splits:
        origin = merged if merged.is_file() else _list(voc, "Main", split)
        sources = {stem: inside(voc / "trainval", f"{stem}.mat", origin) for stem in phases[split]}
        require_files(row, sources.values(), f"label files (.mat) of {origin.name}")
        require_files(row, (voc / "JPEGImages" / f"{stem}.jpg" for stem in sources), "images")
        whose = "that of the Detail API and of the papers" if origin == merged else "VOC's own, not that of the papers"
        print(f"{split}: {len(sources)} images of {origin.relative_to(voc)}; this split is {whose}")
        for classes in (59, 459):
            counts.append(
                convert_labels(dataset(f"pascal_context_{classes}_{split}"), options, sources, read_label_map)
            )
    return counts


def read_label_map(path: Path) -> NDArray[np.integer]:
    """(h, w) class ids 0..459 of a .mat file, 0 meaning unlabelled.

    Raises:
        UserError: the file is damaged or has no ``LabelMap``.
    """
    try:
        values = read_matrix(path, "LabelMap", _MOST_PIXELS)
        if values is None:
            raise UserError(f"{path} has no LabelMap: it is not of Pascal Context.")
        with np.errstate(invalid="ignore"):
            labels = values.astype(np.int32)
        if (labels != values).any():
            raise ValueError("its LabelMap holds other than whole numbers")
    except (OSError, ValueError, struct.error, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}): download it again.") from None
    return labels


def _phases(merged: Path) -> dict[str, list[str]]:
    try:
        images = [(image.get("phase"), Path(image["file_name"]).stem) for image in read_annotation(merged)["images"]]
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{merged} is not Pascal Context's list of images ({type(error).__name__}: {first_line(error)}): download "
            "it again."
        ) from None
    return {split: sorted(stem for phase, stem in images if phase == split) for split in ("train", "val")}
