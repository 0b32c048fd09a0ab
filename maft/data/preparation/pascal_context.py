"""Pascal Context: the 459-class label maps of the .mat files -> PC-459 and its 59 frequent classes, PC-59."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from maft.data.catalog import dataset
from maft.data.preparation.command import Count, Options
from maft.data.preparation.jobs import convert_labels, read_list, require, require_files
from maft.data.records import read_annotation
from maft.errors import UserError


def prepare(options: Options) -> list[Count]:
    """Converts ``VOCdevkit/VOC2010/trainval/*.mat``.

    Raises:
        UserError: the download is incomplete or damaged.
    """
    voc = options.root / "VOCdevkit" / "VOC2010"
    row = dataset("pascal_context_59_val")
    needed = {
        voc / "JPEGImages": "VOCtrainval_03-May-2010.tar",
        voc / "trainval": "trainval.tar.gz, the 459-class labels",
    }
    merged = voc / "trainval_merged.json"
    if not merged.is_file():
        needed |= {_list(voc, split): "VOCtrainval_03-May-2010.tar" for split in options.splits}
    require(row, needed)
    phases = _phases(merged) if merged.is_file() else {s: read_list(_list(voc, s)) for s in options.splits}
    counts = []
    for split in options.splits:
        sources = {stem: voc / "trainval" / f"{stem}.mat" for stem in phases[split]}
        require_files(row, sources.values(), "label files (.mat)")
        require_files(row, (voc / "JPEGImages" / f"{stem}.jpg" for stem in sources), "images")
        origin = merged.name if merged.is_file() else f"ImageSets/Main/{split}.txt"
        print(f"{split}: {len(sources)} images of {origin}")
        for classes in (59, 459):
            counts.append(
                convert_labels(
                    dataset(f"pascal_context_{classes}_{split}"),
                    options.root,
                    sources,
                    read_label_map,
                    workers=options.workers,
                    drop_empty=False,
                )
            )
    return counts


def read_label_map(path: Path) -> NDArray[np.integer]:
    """(h, w) class ids 0..459 of a .mat file, 0 meaning unlabelled.

    Raises:
        UserError: the file is damaged or has no ``LabelMap``.
    """
    try:
        return loadmat(path, variable_names=["LabelMap"])["LabelMap"].astype(np.int32)
    except KeyError:
        raise UserError(f"{path} has no LabelMap: it is not of Pascal Context.") from None
    except (MatReadError, OSError, ValueError, TypeError, NotImplementedError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): download it again.") from None


def _list(voc: Path, split: str) -> Path:
    return voc / "ImageSets" / "Main" / f"{split}.txt"


def _phases(merged: Path) -> dict[str, list[str]]:
    images = read_annotation(merged, "images")["images"]
    return {
        split: sorted(Path(image["file_name"]).stem for image in images if image.get("phase") == split)
        for split in ("train", "val")
    }
