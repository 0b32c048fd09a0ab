"""Pascal VOC 2012: 20 classes (background ignored), 21 with background, and the 15 seen ones of the zero-shot split."""

from __future__ import annotations

from pathlib import Path

from maft.data.catalog import dataset
from maft.data.preparation.command import Count, Options
from maft.data.preparation.jobs import convert_labels, read_list, read_map, require, require_files
from maft.errors import UserError

_ROWS = {"train": ("voc_20_train", "voc_20_train_seen"), "val": ("voc_20_val", "voc_21_val")}
_SBD = "http://home.bharathh.info/pubs/codes/SBD/download.html"


def prepare(options: Options) -> list[Count]:
    """Converts ``VOCdevkit/VOC2012/SegmentationClass``, for training ``SegmentationClassAug`` where it is there.

    Raises:
        UserError: the download is incomplete or damaged.
    """
    voc = options.root / "VOCdevkit" / "VOC2012"
    needed = {voc / "JPEGImages": "VOCtrainval_11-May-2012.tar"}
    lists = {}
    for split in options.splits:
        lists[split], folder = _training_source(voc) if split == "train" else (_list(voc, "val"), "SegmentationClass")
        needed |= {lists[split]: "VOCtrainval_11-May-2012.tar", voc / folder: "VOCtrainval_11-May-2012.tar"}
    require(dataset("voc_20_val"), needed)
    counts = []
    for split in options.splits:
        folder = "SegmentationClassAug" if lists[split].stem == "trainaug" else "SegmentationClass"
        names = read_list(lists[split])
        sources = {Path(name).stem: voc / folder / f"{Path(name).stem}.png" for name in names}
        require_files(dataset("voc_20_val"), sources.values(), f"label maps of {lists[split].name}")
        require_files(dataset("voc_20_val"), (voc / "JPEGImages" / f"{stem}.jpg" for stem in sources), "images")
        print(f"{split}: {len(sources)} images of {lists[split].name}, labels of {folder}")
        for name in _ROWS[split]:
            counts.append(
                convert_labels(
                    dataset(name),
                    options.root,
                    sources,
                    read_map,
                    workers=options.workers,
                    drop_empty=split == "train",
                )
            )
    return counts


def _list(voc: Path, name: str) -> Path:
    return voc / "ImageSets" / "Segmentation" / f"{name}.txt"


def _training_source(voc: Path) -> tuple[Path, str]:
    listed, labelled = _list(voc, "trainaug").is_file(), (voc / "SegmentationClassAug").is_dir()
    if listed != labelled:
        missing = voc / "SegmentationClassAug" if listed else _list(voc, "trainaug")
        raise UserError(
            f"Missing: {missing}. The 10,582 augmented training images need both SegmentationClassAug/ and "
            f"ImageSets/Segmentation/trainaug.txt (labels of {_SBD}); remove the other one to use the 1,464 of VOC."
        )
    return (_list(voc, "trainaug"), "SegmentationClassAug") if listed else (_list(voc, "train"), "SegmentationClass")
